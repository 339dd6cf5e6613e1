// What all parts of the page are made of: elements, tables, numbers, colours.
'use strict';

const facts = JSON.parse(document.getElementById('facts').textContent);
const ROOM = document.getElementById('main').clientWidth || 960; // px
const WIDE = Math.max(640, Math.min(1120, ROOM)); // px, of drawings: on a phone they are scrolled
const COLOURS = 8;

/** Make an element: `of('p', {class: 'quiet'}, 'text', other)`. */
function of(kind, values = {}, ...inner) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(values)) {
    if (value === true) made.setAttribute(name, '');
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...inner.filter((each) => each != null));
  return made;
}

/** Give an element a colour for what its style calls --mine. */
function coloured(made, colour) {
  made.style.setProperty('--mine', colour);
  return made;
}

// What each part is drawn from, of what can be measured on models or text that are no more.
const SOURCES = { models: 'ways', heat: 'evaluation', weights: 'evaluation', tokens: 'evaluation',
  languages: 'evaluation', readers: 'readers', benchmarks: 'benchmarks' };
const caution = (text) => of('p', { class: 'caution' }, text);

/** Begin a part of the report; without `there` it says in a sentence why it is missing. */
function part(id, title, there, absent, ...inner) {
  const made = of('section', { id, 'aria-labelledby': `${id}-title` },
    of('h2', { id: `${id}-title` }, title));
  if (there) made.append(...(facts.outdated[SOURCES[id]] ?? []).map(caution), ...inner.filter((each) => each != null));
  else made.append(of('p', { class: 'absent' }, absent ?? 'There is nothing to show.'));
  document.getElementById('main').append(made);
  document.getElementById('contents').append(of('li', {},
    of('a', { href: `#${id}`, class: there ? null : 'none' }, title)));
  return made;
}

/** Make a table. A column is {head, of: row => text or element, number, words}. */
function table(caption, columns, rows, about = {}) {
  const head = columns.map((each) =>
    of('th', { scope: 'col', class: each.number ? 'number' : null }, each.head));
  const body = of('tbody', {}, ...rows.map((row) => {
    if (row.group) {
      return of('tr', { class: 'group' },
        of('th', { scope: 'rowgroup', colspan: columns.length }, row.group));
    }
    return of('tr', { class: row.own ? 'own' : null }, ...columns.map((each, at) => {
      const kind = each.number ? 'number' : each.words ? 'words' : null;
      const inner = each.of(row) ?? '–';
      return at ? of('td', { class: kind }, inner) : of('th', { scope: 'row' }, inner);
    }));
  }));
  const made = of('table', {}, of('caption', { class: about.shown ? null : 'hidden' }, caption),
    of('thead', {}, of('tr', {}, ...head)), body);
  return scrolled(caption, made, about.tall ? 'scroll tall' : 'scroll');
}

/** Put what may be wider than the page where it can be scrolled, by keys too. */
function scrolled(label, inner, kind = 'scroll') {
  return of('div', { class: kind, tabindex: 0, role: 'region', 'aria-label': label }, inner);
}

const makers = new Map(); // what is in a fold

/** Fold away what is made when it is first opened, or printed: it may be long. */
function folded(summary, make) {
  const made = of('details', {}, summary.tagName === 'SUMMARY' ? summary : of('summary', {}, summary));
  made.addEventListener('toggle', () => filled(made));
  makers.set(made, make);
  return made;
}

/** Make what an open fold has not made yet. */
function filled(fold) {
  if (fold.open && fold.children.length === 1) fold.append(makers.get(fold)());
}

/** Make a figure of a drawing, whose label says what a reader who cannot see it must know. */
function figure(drawing, label, isScrolled = false) {
  const svg = drawing.tagName === 'svg' ? drawing : drawing.querySelector('svg');
  // Plot names its groups of marks, which an image has no use for.
  svg.querySelectorAll('[aria-label]').forEach((each) => each.removeAttribute('aria-label'));
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  const made = drawing.tagName.toLowerCase() === 'figure' ? drawing : of('figure', {}, drawing);
  return isScrolled || WIDE <= ROOM ? made : scrolled(label, made);
}

/** Make a choice with a label; `change` is called with the value whenever it changes. */
function choice(label, options, change) {
  const select = of('select', {}, ...options.map(([value, text]) => of('option', { value }, text)));
  select.addEventListener('change', () => change(select.value));
  return of('label', { class: 'field' }, label, select);
}

const swatch = (colour) => coloured(of('span', { class: 'swatch', 'aria-hidden': 'true' }), colour);
const legend = (pairs) => of('ul', { class: 'legend' },
  ...pairs.map(([colour, text]) => of('li', {}, swatch(colour), text)));

/** Give each expert a colour of its own, where they are few. */
const experts = facts.costs.filter((each) => each.kind === 'ELM' && each.domains.length === 1)
  .map((each) => each.name);
function colourOf(name, among = experts) {
  const at = among.indexOf(name);
  return at < 0 || at >= COLOURS ? 'var(--rest)' : `var(--c${at})`;
}
const letterOf = (at) => String.fromCharCode(65 + (at % 26)) + (at < 26 ? '' : Math.floor(at / 26));

function ppl(value) {
  if (value == null) return null;
  return value >= 1000 ? d3.format(',.0f')(value) : value >= 100 ? value.toFixed(0)
    : value.toPrecision(3);
}
function ratio(value) {
  return value == null ? null : value.toFixed(value < 10 ? 3 : value < 100 ? 1 : 0);
}
function share(value) {
  if (value > 0 && value < 0.0005) return '< 0.1 %';
  return `${(100 * value).toFixed(value > 0.0995 || value === 0 ? 0 : 1)} %`;
}
function count(value, unit = '') {
  if (value == null) return null;
  if (!value) return '0';
  return d3.format(value < 1000 ? ',' : '.3~s')(value).replace('G', ' G').replace('M', ' M')
    .replace('k', ' k').replace('T', ' T').replace('P', ' P').replace('E', ' E') + unit;
}
const bytes = (value) => (value < 1000 ? `${value} B` : `${count(value)}B`);
function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 1) return `${(1000 * seconds).toFixed(0)} ms`;
  if (whole < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
const day = (text) => text.slice(0, 16).replace('T', ' ');
const many = (number, word) => `${number} ${word}${number === 1 ? '' : 's'}`;
function short(text, most = 26) {
  return text.length > most ? `…${text.slice(1 - most)}` : text;
}
/** Name a model of another forest without the folders that this one lies in. */
const named = (model) => (model ?? '').replace(/^.*\/(?=[^/]+:[^/]+$)/, '');
