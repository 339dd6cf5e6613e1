// Each model on each domain: perplexity, its ratio to the seed and to the best expert, as a heat map.

const DEEPEST = 92; // per cent of a colour in a cell
const MANY = 1500; // cells that are elements of their own

/** What a heat map can show: values, what its colours mean, and how a number is written. */
function measures(found) {
  const seed = found.kinds.indexOf('seed');
  const singles = found.columns.map((_, at) => at).filter((at) => found.kinds[at] === 'expert');
  const flat = found.perplexity.flat();
  const [low, high] = d3.extent(flat, Math.log);
  const over = (base) => (row) => row.map((value) => value / base(row));
  const diverging = (value) => {
    const log = Math.max(-1, Math.min(1, Math.log2(value)));
    return [log < 0 ? 'better' : 'worse', DEEPEST * Math.abs(log)];
  };
  const made = {
    ppl: { name: 'Perplexity', values: found.perplexity, written: ppl,
      colour: (value) => ['amount', DEEPEST * (1 - (Math.log(value) - low) / (high - low || 1))],
      ends: [`${ppl(Math.exp(high))}`, `${ppl(Math.exp(low))}`],
      ramp: ['transparent', 'var(--amount)'],
      note: 'The greener, the lower (log scale).' },
  };
  if (seed >= 0) {
    made.seed = { name: 'Ratio to the seed', values: found.perplexity.map(over((row) => row[seed])),
      written: ratio, colour: diverging };
  }
  if (singles.length) {
    made.best = { name: 'Ratio to the best single expert', written: ratio, colour: diverging,
      values: found.perplexity.map(over((row) => d3.min(singles, (at) => row[at]))) };
  }
  for (const each of [made.seed, made.best].filter(Boolean)) {
    Object.assign(each, { ends: ['half', '', 'twice'],
      ramp: ['var(--better)', 'transparent', 'var(--worse)'],
      note: 'Blue is better, orange worse; full colour at half or twice.' });
  }
  return made;
}

/** Draw many cells as one path for each of their few colours: ten thousand elements are slow. */
function painted(cells, fill, [left, top], [wide, high]) {
  const groups = d3.rollup(cells, (of_) => of_.map(({ x, y }) =>
    `M${(left + x * wide).toFixed(1)} ${(top + y * high).toFixed(1)}h${wide.toFixed(2)}v${high.toFixed(2)}h${-wide.toFixed(2)}z`)
    .join(''), fill);
  return [...groups].map(([colour, d]) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    made.setAttribute('d', d);
    made.setAttribute('fill', colour);
    return made;
  });
}

/** Draw `values` (row, column); colours are mixes with the page's own, so they follow its scheme. */
function heatMap(rows, columns, values, measure, about) {
  const label = Math.min(190, 20 + 6.4 * d3.max(rows, (row) => Math.min(28, row.length)));
  const wide = Math.max(5, Math.min(74, (WIDE - label - 50) / columns.length));
  const letter = Math.min(12, Math.max(6, wide - 1)); // px, of the names of columns
  const isSteep = wide < 14;
  const longest = d3.max(columns, (name) => Math.min(24, name.length));
  const top = 14 + longest * letter * (isSteep ? 0.62 : 0.42);
  const high = Math.max(9, Math.min(26, 1000 / rows.length));
  const cells = values.flatMap((row, y) => row.map((value, x) => ({ x, y, value })));
  const fill = ({ value }) => {
    const [colour, percent] = measure.colour(value);
    return `color-mix(in oklab, var(--${colour}) ${2 * Math.round(Math.max(0, percent) / 2)}%, var(--card))`;
  };
  const ink = ({ value }) => {
    const [colour, percent] = measure.colour(value);
    return percent > 68 ? `var(--on-${colour})` : 'var(--ink)';
  };
  const size = Math.min(12, Math.max(6, high - 2));
  const best = values.map((row) => d3.minIndex(row));
  const svg = Plot.plot({
    width: label + wide * columns.length + 50, height: top + high * rows.length + 8,
    marginLeft: label, marginTop: top, marginRight: 50, marginBottom: 8,
    style: { fontSize: `${size}px` },
    x: { domain: d3.range(columns.length), axis: null, padding: wide > 12 ? 0.05 : 0 },
    y: { domain: d3.range(rows.length), axis: null, padding: high > 12 ? 0.08 : 0 },
    color: { type: 'identity' },
    marks: [
      ...(cells.length > MANY ? [] : [Plot.cell(cells, { x: 'x', y: 'y', fill, rx: wide > 12 ? 3 : 0 })]),
      Plot.text(rows, { y: (_, at) => at, frameAnchor: 'left', textAnchor: 'end', dx: -8,
        text: (name) => short(name, 28), fill: 'var(--ink)', fontSize: size }),
      Plot.text(columns, { x: (_, at) => at, frameAnchor: 'top', textAnchor: 'start', dx: isSteep ? 2 : 0, dy: -8,
        rotate: isSteep ? -90 : -45,
        text: (name) => short(name, 24), fill: 'var(--ink)', fontSize: letter }),
      ...(wide >= 38 && rows.length * columns.length < 1200 ? [
        Plot.text(cells, { x: 'x', y: 'y', text: ({ value }) => measure.written(value),
          fontWeight: ({ x, y }) => (about.best && best[y] === x ? 700 : 400), fill: ink,
          fontSize: Math.min(12, high - 8) })] : []),
      ...(about.best && wide >= 10 && cells.length <= MANY ? [
        Plot.cell(cells.filter(({ x, y }) => best[y] === x),
          { x: 'x', y: 'y', stroke: 'var(--ink)', strokeWidth: 1.6, fill: 'none', rx: 3, inset: 0.5 })] : []),
    ],
  });
  if (cells.length > MANY) svg.append(...painted(cells, fill, [label, top], [wide, high]));
  const at = (event) => {
    const matrix = svg.getScreenCTM();
    if (!matrix) return null;
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    const [x, y] = [Math.floor((point.x - label) / wide), Math.floor((point.y - top) / high)];
    return x >= 0 && y >= 0 && x < columns.length && y < rows.length ? [x, y] : null;
  };
  const mark = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  for (const [key, value] of Object.entries({ width: wide, height: high, fill: 'none',
    stroke: 'var(--ink)', 'stroke-width': 2.5, visibility: 'hidden' })) mark.setAttribute(key, value);
  svg.append(mark);
  const put = (x, y) => {
    mark.setAttribute('x', label + x * wide);
    mark.setAttribute('y', top + y * high);
    mark.setAttribute('visibility', 'visible');
  };
  return { svg, at, put };
}

/** A heat map with a cursor, a legend and a table; `over` are the measures to choose from. */
function heatFigure(id, rows, columns, over, about) {
  const place = of('div', {});
  const show = (key) => {
    const measure = over[key];
    const { svg, at, put } = heatMap(rows, columns, measure.values, measure, about);
    const told = of('p', { class: 'told', 'aria-live': 'polite' },
      'Point at a cell, or move over them with the arrow keys.');
    const label = `${measure.name}, ${rows.length} domains by ${columns.length} models; arrow keys `
      + 'move over the cells';
    const holder = of('div', { class: rows.length > 120 ? 'scroll tall' : 'scroll', tabindex: 0,
      role: 'application', 'aria-label': label }, figure(svg, measure.name, true));
    walked(holder, told, [columns.length, rows.length], at, (x, y) => {
      put(x, y);
      return [of('b', {}, columns[x]), ' on ', of('b', {}, rows[y]), ': ',
        ...Object.values(over).flatMap((each, n) =>
          [n ? ' · ' : '', `${each.name.toLowerCase()} ${each.written(each.values[y][x])}`])];
    });
    const ramp = of('span', { class: 'ramp', 'aria-hidden': 'true' });
    ramp.style.background = `linear-gradient(to right, ${measure.ramp.join(', ')})`;
    place.replaceChildren(
      of('ul', { class: 'legend' },
        of('li', {}, measure.ends[0], ramp, measure.ends.at(-1)), of('li', { class: 'quiet' }, measure.note),
        about.best && rows.length * columns.length <= MANY
          ? of('li', { class: 'quiet' }, 'The best of a row is framed.') : ''),
      holder, told,
      folded('The same as a table', () => table(measure.name, [
        { head: 'Domain', of: (row) => row.name },
        ...columns.map((name, x) => ({ head: name, number: true, of: (row) => measure.written(row.values[x]) })),
      ], rows.map((name, y) => ({ name, values: measure.values[y] })))));
  };
  const options = Object.entries(over).map(([key, each]) => [key, each.name]);
  show(options[0][0]);
  const chooser = options.length > 1 ? of('div', { class: 'row' }, choice('Show', options, show)) : null;
  return of('div', { id: `${id}-heat` }, chooser, place);
}

const domainName = (domain) => domain.name + (domain.novel ? ' (novel)' : '');

function heat() {
  const found = facts.evaluation;
  if (!found) return part('heat', 'Experts by domain', false, facts.absent.evaluation);
  return part('heat', 'Experts by domain', true, null,
    of('p', { class: 'quiet' }, `Evaluation ${found.name} of ${day(found.created)}: the ensemble under `
      + `the rule ${found.rule} and the prior ${found.prior}, in windows of ${found.window} tokens; what `
      + 'was measured beside it; every expert alone.'),
    heatFigure('models', found.domains.map(domainName), found.columns, measures(found), { best: true }),
    ...found.warnings.map(caution));
}
