// The forest: how each model does on each domain, and who descends from whom.

import { forest } from './api.js';

const SVG = 'http://www.w3.org/2000/svg';
const [WIDE, HIGH, GAP_X, GAP_Y, EDGE] = [150, 44, 90, 16, 10];
const MOST = 400; // models that are drawn: of more a picture shows nothing, and takes seconds
const get = (id) => document.getElementById(id);

function cell(kind, text, scope) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (scope) made.scope = scope;
  return made;
}

function drawing(kind, values, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Show the forest as it stands now, with one of its evaluations. */
export async function showForest(evaluation) {
  const found = await forest(evaluation);
  get('heat').hidden = !found.heat_map;
  get('no-heat').hidden = Boolean(found.heat_map);
  if (found.heat_map) showHeat(found.heat_map, found.evaluations);
  const isMany = found.lineage.length > MOST;
  get('lineage').parentElement.hidden = isMany;
  get('lineage-note').textContent = isMany
    ? `${found.lineage.length} models, too many for a picture.`
    : 'From parents to children, a line as wide as the weight; what was removed is dashed. The '
      + 'table says the same.';
  if (!isMany) drawLineage(found.lineage);
  get('lineage-table').tBodies[0].replaceChildren(...found.lineage.map(row));
}

function showHeat(map, names) {
  get('evaluation').replaceChildren(...names.map((name) => new Option(name)));
  get('evaluation').value = map.name;
  get('heat-note').textContent = `Perplexity; lower is better. Of evaluation ${map.name}, made `
    + `${map.created.slice(0, 10)} under the rule ${map.rule}. Blue is better than the best single `
    + 'expert of that domain, orange worse, full colour at half or twice its perplexity; the best '
    + 'of a row is framed.';
  const head = document.createElement('tr');
  head.append(cell('th', 'Domain', 'col'), ...map.columns.map((name) => cell('th', name, 'col')));
  get('heat-table').tHead.replaceChildren(head);
  get('heat-table').tBodies[0].replaceChildren(...map.rows.map((each) => heatRow(each)));
}

function heatRow({ domain, novel, perplexities, over_best: overBest }) {
  const made = document.createElement('tr');
  const name = cell('th', domain, 'row');
  if (novel) {
    const mark = cell('span', ' novel');
    mark.className = 'novel';
    name.append(mark);
  }
  made.append(name);
  const best = Math.min(...perplexities);
  perplexities.forEach((value, at) => {
    const one = cell('td', value >= 100 ? value.toFixed(0) : value.toPrecision(3));
    const share = Math.min(1, Math.abs(overBest[at]));
    const colour = overBest[at] < 0 ? 'var(--better)' : 'var(--worse)';
    one.style.backgroundColor = `color-mix(in oklab, ${colour} ${Math.round(90 * share)}%, transparent)`;
    if (value === best) one.className = 'best';
    made.append(one);
  });
  return made;
}

function label(node) {
  const said = [node.kind === 'ELM' ? '' : node.kind, node.state === 'there' ? '' : node.state];
  return said.filter(Boolean).join(', ');
}

function tokens(count) {
  if (!count) return '';
  const [unit, word] = count >= 1e9 ? [1e9, ' B'] : count >= 1e6 ? [1e6, ' M'] : [1e3, ' k'];
  return `${Number((count / unit).toPrecision(3))}${word}`;
}

function row(node) {
  const made = document.createElement('tr');
  const parents = node.parents.map(({ name, weight }) => `${name} (${+weight.toPrecision(3)})`);
  made.append(cell('th', node.name, 'row'), cell('td', parents.join(', ') || '–'),
    cell('td', node.domains.join(', ') || '–'), cell('td', tokens(node.total_tokens) || '–'),
    cell('td', label(node) || 'ELM'));
  return made;
}

/** Count for each model the steps of the longest way to it from one without parents. */
function depths(nodes) {
  const found = new Map();
  const of = new Map(nodes.map((node) => [node.id, node]));
  const depth = (id, above) => {
    if (found.has(id)) return found.get(id);
    if (above.has(id) || !of.has(id)) return 0; // forged: none is its own ancestor
    const ways = of.get(id).parents.map((parent) => 1 + depth(parent.id, new Set(above).add(id)));
    found.set(id, Math.max(0, ...ways));
    return found.get(id);
  };
  nodes.forEach((node) => depth(node.id, new Set()));
  return found;
}

function drawLineage(nodes) {
  const depth = depths(nodes);
  const columns = [];
  for (const node of nodes) (columns[depth.get(node.id)] ??= []).push(node);
  const most = Math.max(...columns.map((column) => column.length));
  const height = 2 * EDGE + most * (HIGH + GAP_Y) - GAP_Y;
  const width = 2 * EDGE + columns.length * (WIDE + GAP_X) - GAP_X;
  const places = new Map();
  columns.forEach((column, x) => column.forEach((node, y) => {
    const top = (height - column.length * (HIGH + GAP_Y) + GAP_Y) / 2;
    places.set(node.id, [EDGE + x * (WIDE + GAP_X), top + y * (HIGH + GAP_Y)]);
  }));
  const svg = get('lineage');
  svg.setAttribute('width', width);
  svg.setAttribute('height', height);
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const edges = nodes.flatMap((node) => node.parents
    .filter((parent) => places.has(parent.id))
    .map((parent) => edge(places.get(parent.id), places.get(node.id), parent.weight)));
  svg.replaceChildren(...edges, ...nodes.map((node) => box(node, places.get(node.id))));
}

function edge([x0, y0], [x1, y1], weight) {
  const [from, to, middle] = [x0 + WIDE, x1, (x0 + WIDE + x1) / 2];
  const [a, b] = [y0 + HIGH / 2, y1 + HIGH / 2];
  return drawing('path', {
    d: `M${from} ${a} C${middle} ${a} ${middle} ${b} ${to} ${b}`,
    'stroke-width': 0.75 + 2.25 * Math.max(0, Math.min(1, weight)),
  });
}

function short(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function box(node, [x, y]) {
  const made = drawing('g', {
    class: [node.kind === 'ELM' ? '' : 'derived', node.state === 'there' ? '' : 'lost'].join(' '),
  });
  const about = label(node) || tokens(node.total_tokens) && `${tokens(node.total_tokens)} tokens`;
  made.append(
    drawing('rect', { x, y, width: WIDE, height: HIGH, rx: 6 }),
    drawing('text', { x: x + 12, y: y + (about ? 19 : 27) }, short(node.name, 18)),
    drawing('text', { x: x + 12, y: y + 35, class: 'small' }, short(about, 22)),
    drawing('title', {}, node.name),
  );
  return made;
}
