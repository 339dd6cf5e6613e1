// The course of every training: loss, learning rate and speed.

const DRAWINGS = {
  losses: { name: 'Training loss', label: 'nats per token' },
  valid: { name: 'Valid loss', label: 'nats per token' },
  rates: { name: 'Learning rate', label: 'learning rate' },
  speeds: { name: 'Speed', label: 'tokens per second' },
};

const CROWD = 30; // curves, of more the median is drawn too
const ACROSS_OF = {
  share: 'share of its own training',
  tokens: 'tokens of its own training',
  whole: 'tokens, those of its ancestors before it',
};

/** List the points of a curve; `across` says what the horizontal axis counts. */
function points(curve, key, across) {
  const cost = facts.costs.find((each) => each.name === curve.name && each.kind === curve.kind);
  const before = across === 'whole' && cost ? cost.total_tokens - cost.tokens : 0;
  const share = (at) => (100 * curve.steps[at]) / Math.max(curve.planned, curve.steps.at(-1));
  return curve.steps.map((step, at) => ({ name: curve.name, step, value: curve[key][at],
    x: across === 'share' ? share(at) : before + curve.tokens[at] }))
    .filter((point) => point.value != null);
}

function drawnCurves(curves, { key, held, across }) {
  const all = curves.flatMap((curve) => points(curve, key, across));
  // What is stressed is drawn last, above the others.
  const rows = held ? [...all.filter((row) => row.name !== held), ...all.filter((row) => row.name === held)] : all;
  const names = curves.map((curve) => curve.name);
  const isFew = experts.length <= COLOURS;
  const colour = (name) => {
    if (held) return name === held ? 'var(--c1)' : 'var(--rest)';
    return isFew ? (experts.includes(name) ? colourOf(name) : 'var(--ink)') : 'var(--field)';
  };
  const last = d3.rollups(rows, (of_) => of_.at(-1), (row) => row.name).map(([, row]) => row);
  const high = 340;
  const written = d3.format('.4~g');
  return Plot.plot({
    width: WIDE, height: high, marginLeft: 60, marginRight: names.length <= 14 ? 130 : 30, marginBottom: 42,
    style: { fontSize: '12px' },
    x: { label: ACROSS_OF[across], labelAnchor: 'center', ticks: 8,
      tickFormat: (value) => (across === 'share' ? `${value} %` : d3.format('~s')(value)) },
    y: { label: DRAWINGS[key].label, grid: true, zero: key === 'rates' || key === 'speeds', ticks: 6 },
    color: { type: 'identity' },
    marks: [
      ...d3.groups(rows, (row) => colour(row.name)).map(([stroke, some]) => Plot.line(some, { x: 'x', y: 'value',
        z: 'name', stroke, strokeWidth: some[0].name === held ? 2.6 : 1.6,
        strokeOpacity: names.length > CROWD && !held ? 0.4 : 1 })),
      ...(names.length > CROWD && !held ? [Plot.line(medians(rows), { x: 'x', y: 'value', stroke: 'var(--c0)',
        strokeWidth: 3 })] : []),
      ...(names.length <= 14 ? [Plot.text(dodged(last, d3.extent(rows, (row) => row.value)), { x: 'x', y: 'at',
        text: (row) => short(row.name, 18), textAnchor: 'start', dx: 6, fill: 'var(--ink)',
        stroke: 'var(--paper)', strokeWidth: 4, fontSize: 11 })] : []),
      Plot.tip(rows, Plot.pointer({ x: 'x', y: 'value', maxRadius: 40, fill: 'var(--card)',
        stroke: 'var(--field)', fontSize: 12,
        title: (row) => `${row.name}\nstep ${row.step}\n${written(row.value)} ${DRAWINGS[key].label}` })),
    ],
  });
}

/** The median of all curves, in forty parts of the axis. */
function medians(rows) {
  const end = d3.max(rows, (row) => row.x) || 1;
  return d3.rollups(rows, (of_) => ({ x: d3.mean(of_, (row) => row.x), value: d3.median(of_, (row) => row.value) }),
    (row) => Math.floor((40 * row.x) / end)).map(([, each]) => each).sort((a, b) => a.x - b.x);
}

/** Move labels apart that would stand on one another: each takes a twentieth of the height. */
function dodged(rows, [low, high]) {
  const least = (high - low) / 21 || 1;
  const width = d3.max(rows, (row) => row.x) / 8;
  const placed = [];
  for (const row of d3.sort(rows, (each) => each.value)) {
    const near = placed.filter((other) => Math.abs(other.x - row.x) < width);
    placed.push({ ...row, at: Math.max(row.value, (d3.max(near, (other) => other.at) ?? -Infinity) + least) });
  }
  const above = d3.max(placed, (row) => row.at) - high;
  return placed.map((row) => ({ ...row, at: above > 0 && placed.length > 8 ? row.at - above / 2 : row.at }));
}

function curves() {
  const all = facts.curves;
  if (!all.length) return part('curves', 'Training', false, facts.absent.curves);
  const state = { key: 'losses', held: '', across: 'share', kinds: 'ELM' };
  const place = of('div', {});
  const keys = Object.keys(DRAWINGS).filter((key) => all.some((curve) => curve[key].some((v) => v != null)));
  const isOwn = (curve) => ['ELM', 'branch'].includes(curve.kind);
  const hasOthers = all.some(isOwn) && !all.every(isOwn);
  const draw = () => {
    const shown = state.kinds && hasOthers ? all.filter(isOwn) : all;
    place.replaceChildren(figure(drawnCurves(shown, state),
      `${DRAWINGS[state.key].name} of ${many(shown.length, 'training')}; the table below has the ends`));
  };
  const chosen = (label, key, options) => choice(label, options, (value) => { state[key] = value; draw(); });
  draw();
  const last = (values) => values.findLast((value) => value != null);
  const columns = [
    { head: 'Training', of: (each) => each.name },
    { head: 'Kind', of: (each) => each.kind },
    { head: 'Steps', number: true, of: (each) => d3.format(',')(each.steps.at(-1)) },
    { head: 'Tokens', number: true, of: (each) => count(each.tokens.at(-1)) },
    { head: 'First loss', number: true, of: (each) => last(each.losses.slice(0, 1))?.toFixed(3) },
    { head: 'Last loss', number: true, of: (each) => last(each.losses)?.toFixed(3) },
    { head: 'Last valid', number: true, of: (each) => last(each.valid)?.toFixed(3) },
    { head: 'Greatest rate', number: true, of: (each) => d3.format('.3~g')(d3.max(each.rates)) },
    { head: 'Tokens a second', number: true, of: (each) => count(d3.median(each.speeds)) },
  ];
  return part('curves', 'Training', true, null,
    of('p', { class: 'quiet' }, 'As each training reported it, thinned out for this page; losses of '
      + `training are of one batch.${all.length > CROWD ? ' The thick line is the median.' : ''}`),
    of('div', { class: 'row' },
      chosen('Show', 'key', keys.map((key) => [key, DRAWINGS[key].name])),
      hasOthers ? chosen('Of', 'kinds', [['ELM', 'seed and experts'], ['', 'students and mixtures too']]) : '',
      chosen('Over', 'across', Object.entries(ACROSS_OF)),
      chosen('Stress', 'held', [['', 'none'], ...all.map((each) => [each.name, each.name])])),
    place,
    folded('Ends, as a table', () => table('Where each training ended', columns, all)));
}
