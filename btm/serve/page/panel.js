// What is told beside the text: of the token under the cursor, and of the whole.

import { letterOf, look } from './experts.js';
import { nats, percent, plain } from './tokens.js';

const SVG = 'http://www.w3.org/2000/svg';
const get = (id) => document.getElementById(id);

function cell(kind, ...content) {
  const made = document.createElement(kind);
  made.append(...content);
  if (kind === 'th') made.scope = 'row';
  return made;
}

function named(name) {
  const made = document.createElement('span');
  made.className = 'named';
  made.append(letterOf(name), name);
  return made;
}

/** Draw a figure over a bar of its share. */
function bar(said, share, colour) {
  const made = document.createElement('div');
  made.className = 'bar';
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 100 1');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const rect = document.createElementNS(SVG, 'rect');
  rect.setAttribute('width', 100 * Math.min(1, Math.max(0, share)));
  rect.setAttribute('height', 1);
  rect.style.setProperty('--mine', colour);
  svg.append(rect);
  const text = document.createElement('span');
  text.textContent = said;
  made.append(text, svg);
  return made;
}

/** Tell of one token. */
export function tell(tokens, views, shown, at) {
  const token = tokens[at];
  const view = views[at];
  get('panel-title').textContent = `Token ${at + 1} of ${tokens.length}`;
  get('panel-token').textContent = plain(token.text);
  get('panel-mixture').textContent = view.logp == null
    ? 'losses are told once it is scored'
    : `mixture ${nats(-view.logp)} nats, p = ${Math.exp(view.logp).toPrecision(3)}`;
  const worst = Math.max(1, ...shown.map((name) => -(token.logps[name] ?? 0)));
  get('panel-experts').tBodies[0].replaceChildren(...shown.map((name, of) => {
    const { colour } = look(name);
    const loss = token.logps[name] == null ? null : -token.logps[name];
    const row = cell('tr', cell('th', named(name)),
      cell('td', bar(percent(view.weights[of]), view.weights[of], colour)),
      cell('td', bar(nats(loss), (loss ?? 0) / worst, colour)));
    row.dataset.expert = name;
    return row;
  }));
  get('panel-top').hidden = !token.top;
  get('panel-top').lastElementChild.replaceChildren(
    ...Object.entries(token.top ?? {}).sort((a, b) => b[1] - a[1]).map(([text, logp]) => {
      const made = cell('li', cell('span', plain(text)), cell('span', percent(Math.exp(logp))));
      if (text === token.text) made.className = 'chosen';
      return made;
    }),
  );
}

/** Tell of the whole text: a row for each expert with its tick, then the mixture. */
export function sum(members, hidden, found, onTick) {
  const of = new Map(found.experts.map((each) => [each.name, each]));
  const rows = members.map((name) => {
    const each = of.get(name);
    const tick = document.createElement('input');
    tick.type = 'checkbox';
    tick.checked = !hidden.has(name);
    tick.addEventListener('change', () => onTick(name, tick.checked));
    const label = cell('label', tick, letterOf(name), name);
    const row = cell('tr', cell('th', label), cell('td', percent(each?.leads)),
      cell('td', percent(each?.weight)), cell('td', nats(each?.nats)));
    row.dataset.expert = name;
    return row;
  });
  if (members.length > 1) {
    const all = cell('tr', cell('th', 'mixture'), cell('td'), cell('td'),
      cell('td', nats(found.mixture)));
    all.className = 'all';
    rows.push(all);
  }
  const body = get('legend').tBodies[0];
  const held = document.activeElement?.closest?.('#legend tr')?.dataset.expert;
  body.replaceChildren(...rows);
  if (held) body.querySelector(`tr[data-expert="${CSS.escape(held)}"] input`)?.focus();
}

/** Say what leaving experts out means under a rule. */
export function note(members, hidden, rule) {
  let said = '';
  if (hidden.size && members.length > 1) {
    said = ['bayes', 'simple'].includes(rule)
      ? `Weights are those of the ticked experts alone: under ${rule}, exactly their ensemble.`
      : 'Weights are shared out among the ticked experts; the rule itself still sees all of them.';
  }
  get('legend-note').textContent = said;
}
