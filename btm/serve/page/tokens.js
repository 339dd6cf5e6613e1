// The text as tokens, and the strip of all weights above it.

import { look } from './experts.js';

const SVG = 'http://www.w3.org/2000/svg';
const LEAST = 0.01; // of a token's bar; less is narrower than a pixel

const list = document.getElementById('tokens');
const strip = document.getElementById('strip');

/** Write a token so that each can be seen: one of a line's end or of blanks too. */
export function shownText(text) {
  if (text.startsWith('bytes:')) return `‹${text.slice(6).replaceAll('\\x', ' ').trim()}›`;
  return text === '' ? '∅' : text;
}

/** Write a token for a line of its own. */
export function plain(text) {
  return shownText(text).replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '␣');
}

export function percent(share) {
  return share == null ? '–' : `${(100 * share).toFixed(share > 0.0995 || share === 0 ? 0 : 1)} %`;
}

export function nats(value, digits = 3) {
  return value == null ? '–' : value.toFixed(digits);
}

/** Draw all tokens anew. */
export function draw(tokens, views, shown) {
  list.replaceChildren();
  append(tokens, views, shown, 0);
}

/** Draw tokens from `from` on behind those that are drawn. */
export function append(tokens, views, shown, from) {
  const made = document.createDocumentFragment();
  for (let at = from; at < tokens.length; at += 1) {
    made.append(span(tokens[at], views[at], views[at - 1], shown, at));
  }
  list.append(made);
}

function span(token, view, before, shown, at) {
  const made = document.createElement('span');
  made.className = 'token';
  made.id = `token-${at}`;
  made.setAttribute('role', 'option');
  made.setAttribute('aria-selected', 'false');
  made.tabIndex = at === 0 ? 0 : -1;
  made.dataset.at = at;
  write(made, token.text);
  let said = plain(token.text).replaceAll('␣', ' ');
  if (view.lead !== null) {
    const { letter, colour, round } = look(view.lead);
    const weight = view.weights[shown.indexOf(view.lead)];
    made.dataset.lead = view.lead;
    made.dataset.round = round;
    if (before?.lead !== view.lead) made.dataset.mark = letter; // where another begins to lead
    made.style.setProperty('--mine', colour);
    const tint = `color-mix(in oklab, ${colour} calc(${weight.toFixed(3)} * var(--tint)), transparent)`;
    made.style.backgroundImage =
      `${bar(view.weights, shown)}, linear-gradient(${tint}, ${tint})`;
    said += `, ${view.lead} ${percent(weight)}`;
  }
  if (view.logp != null) said += `, ${nats(-view.logp, 2)} nats`;
  made.setAttribute('aria-label', said);
  return made;
}

/** Write a token's text; the end of a line shows before it ends the line. */
function write(made, text) {
  const parts = shownText(text).split('\n');
  parts.forEach((part, number) => {
    if (number > 0) {
      const end = document.createElement('span');
      end.className = 'unseen';
      end.textContent = '↵';
      made.append(end, '\n');
    }
    made.append(part);
  });
}

/** Stack the weights of a token from the bottom up, as a gradient of hard stops. */
function bar(weights, shown) {
  const stops = [];
  let below = 0;
  for (const [at, name] of shown.entries()) {
    if (weights[at] < LEAST) continue;
    const above = Math.min(1, below + weights[at]);
    stops.push(`${look(name).colour} ${(100 * below).toFixed(1)}% ${(100 * above).toFixed(1)}%`);
    below = above;
  }
  return `linear-gradient(to top, ${stops.join(', ')}${stops.length === 1 ? `, ${stops[0]}` : ''})`;
}

/** Draw the weights over the whole text as areas, one upon another. */
export function drawStrip(views, shown) {
  const count = views.length;
  strip.setAttribute('viewBox', `0 0 ${Math.max(1, count)} 1`);
  strip.replaceChildren(hatches(shown));
  const below = new Array(count).fill(0);
  const leads = new Map();
  shown.forEach((name, of) => {
    const top = views.map((view, at) => below[at] + view.weights[of]);
    strip.append(area(name, below.slice(), top));
    top.forEach((value, at) => { below[at] = value; });
  });
  views.forEach((view) => leads.set(view.lead, (leads.get(view.lead) ?? 0) + 1));
  const said = [...leads].sort((a, b) => b[1] - a[1]).map(([n, c]) => `${n ?? 'none'} ${c}`);
  strip.setAttribute('aria-label', `Weights over ${count} tokens; leading: ${said.join(', ')}`);
}

function area(name, low, high) {
  const there = high.flatMap((y, at) => [`${at},${1 - y}`, `${at + 1},${1 - y}`]);
  const back = low.flatMap((y, at) => [`${at},${1 - y}`, `${at + 1},${1 - y}`]).reverse();
  const made = document.createElementNS(SVG, 'polygon');
  made.setAttribute('points', [...there, ...back].join(' '));
  const { colour, round, letter } = look(name);
  made.setAttribute('fill', round ? `url(#hatch-${letter})` : colour);
  return made;
}

/** Make the patterns of experts whose colour stands for another one already. */
function hatches(shown) {
  const made = document.createElementNS(SVG, 'defs');
  for (const name of shown) {
    const { letter, colour, round } = look(name);
    if (!round) continue;
    const pattern = document.createElementNS(SVG, 'pattern');
    pattern.id = `hatch-${letter}`;
    pattern.setAttribute('width', 1);
    pattern.setAttribute('height', 0.16 / round);
    pattern.setAttribute('patternUnits', 'userSpaceOnUse');
    for (const [y, fill] of [[0, colour], [0.08 / round, '#111']]) {
      const half = document.createElementNS(SVG, 'rect');
      half.setAttribute('y', y);
      half.setAttribute('width', 1);
      half.setAttribute('height', (y ? 0.04 : 0.16) / round);
      half.setAttribute('fill', fill);
      pattern.append(half);
    }
    made.append(pattern);
  }
  return made;
}

/** Mark the token that the panel tells of. */
export function mark(at, { focus = false } = {}) {
  const old = list.querySelector('[aria-selected="true"]');
  old?.setAttribute('aria-selected', 'false');
  const found = document.getElementById(`token-${at}`);
  if (!found) return;
  for (const each of list.querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
  found.setAttribute('aria-selected', 'true');
  found.tabIndex = 0;
  if (focus) found.focus();
  strip.querySelector('.here')?.remove();
  const here = document.createElementNS(SVG, 'rect');
  here.setAttribute('class', 'here');
  here.setAttribute('x', at);
  here.setAttribute('width', 1);
  here.setAttribute('height', 1);
  strip.append(here);
}

/** Call `choose(index, options)` when a token is pointed at, clicked or moved to. */
export function listen(choose) {
  const at = (event) => event.target.closest('.token')?.dataset.at;
  for (const kind of ['mouseover', 'click', 'focusin']) {
    list.addEventListener(kind, (event) => {
      if (at(event) !== undefined) choose(Number(at(event)), { focus: kind === 'click' });
    });
  }
  list.addEventListener('keydown', (event) => {
    const here = at(event);
    const to = here === undefined ? undefined : target(event.key, Number(here));
    if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    choose(to, { focus: true });
  });
  strip.addEventListener('click', (event) => {
    const { left, width } = strip.getBoundingClientRect();
    const to = Math.floor(((event.clientX - left) / width) * list.children.length);
    choose(Math.min(list.children.length - 1, Math.max(0, to)), { focus: true });
  });
}

function target(key, at) {
  const last = list.children.length - 1;
  const to = {
    ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last,
    ArrowDown: near(at, 1), ArrowUp: near(at, -1),
  }[key];
  return to === undefined ? undefined : Math.min(last, Math.max(0, to));
}

/** Find the token below or above one: the nearest on the next line that way. */
function near(at, way) {
  const from = list.children[at].getClientRects()[0];
  let found = at;
  let distance = Infinity;
  let line = null;
  for (let to = at + way; list.children[to]; to += way) {
    const box = list.children[to].getClientRects()[0];
    if (!box || Math.abs(box.top - from.top) < 5) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) >= 5) break;
    if (Math.abs(box.left - from.left) < distance) {
      distance = Math.abs(box.left - from.left);
      found = to;
    }
  }
  return found;
}
