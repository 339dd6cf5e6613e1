// The forest beside all that it was compared with, grouped by what inference costs.

/** Group rows by the models that are run for a token: at equal inference cost they compare. */
function grouped(rows) {
  const groups = d3.groups(rows, (row) => {
    const run = row.experts_run;
    return run === 1 ? 'one model a token' : Number.isInteger(run) ? `${run} models a token`
      : `${run.toPrecision(2)} models a token, on the average`;
  });
  return d3.sort(groups, ([, of_]) => of_[0].experts_run)
    .map(([group, of_]) => [group, d3.sort(of_, (row) => row.ppl ?? row.novel_ppl)]);
}

const over = (value, base) => (value == null || base == null ? null : value / base);

/** Draw each row's perplexity over the reference's, in the order of the table. */
function drawnModels(ways, groups, reference) {
  const scopes = [['domains trained on', 'ppl'], ['novel domains', 'novel_ppl']]
    .filter(([, key]) => ways.rows.some((row) => row[key] != null));
  const lines = groups.flatMap(([group, rows]) => [{ id: group, group }, ...rows.map((row) =>
    ({ id: row.model + row.kind, row }))]);
  const dots = lines.filter((line) => line.row).flatMap(({ id, row }) => scopes
    .filter(([, key]) => row[key] != null)
    .map(([scope, key]) => ({ id, scope, row, ratio: over(row[key], reference[key]) })));
  const isOwn = (dot) => dot.row === ways.rows[0];
  const [first] = scopes[0];
  const [low, high] = d3.extent([1, ...dots.map((dot) => dot.ratio)]);
  const domain = [low * 0.82, high * 1.2];
  // A log scale has words at few of its ticks: of a narrow one at 1 alone.
  const ticks = domain[1] / domain[0] < 6 ? d3.ticks(...domain, 5) : 5;
  return Plot.plot({
    width: WIDE, height: 76 + 23 * lines.length, insetTop: 4, insetBottom: 8, marginLeft: 230, marginRight: 46, marginBottom: 42,
    style: { fontSize: '12px' },
    x: { type: 'log', grid: true, label: `perplexity over that of ${named(reference.model)} (log scale; less is better)`,
      labelAnchor: 'center', ticks, tickFormat: (value) => d3.format('~g')(value), domain },
    r: { type: 'identity' },
    y: { domain: lines.map((line) => line.id), axis: null, padding: 0 },
    fx: { domain: scopes.map(([scope]) => scope), label: null, padding: 0.08 },
    color: { type: 'identity' },
    marks: [
      Plot.ruleX([1], { stroke: 'var(--quiet)', strokeDasharray: '4 3', strokeWidth: 1.5 }),
      Plot.text(lines, { fx: () => first, y: 'id', frameAnchor: 'left', textAnchor: 'end', dx: -12,
        text: (line) => line.group ?? short(named(line.row.model), 32),
        fontWeight: (line) => (line.row === ways.rows[0] ? 700 : 400),
        fontStyle: (line) => (line.group ? 'italic' : 'normal'),
        fill: (line) => (line.group ? 'var(--quiet)' : 'var(--ink)') }),
      Plot.ruleY(dots, { y: 'id', fx: 'scope', x1: 1, x2: 'ratio', strokeWidth: 2,
        stroke: (dot) => (isOwn(dot) ? 'var(--c0)' : 'var(--field)') }),
      Plot.dot(dots, { x: 'ratio', y: 'id', fx: 'scope', r: (dot) => (isOwn(dot) ? 7 : 5),
        fill: (dot) => (isOwn(dot) ? 'var(--c0)' : 'var(--card)'),
        stroke: (dot) => (isOwn(dot) ? 'var(--c0)' : 'var(--quiet)'), strokeWidth: 2 }),
      ...[[(dot) => dot.ratio >= 1, 'start', 11], [(dot) => dot.ratio < 1, 'end', -11]].map(([which, textAnchor, dx]) =>
        Plot.text(dots.filter(which), { x: 'ratio', y: 'id', fx: 'scope', textAnchor, dx,
          text: (dot) => dot.ratio.toFixed(dot.ratio < 2 ? 2 : 1), fill: 'var(--ink)',
          fontWeight: (dot) => (isOwn(dot) ? 700 : 400), stroke: 'var(--paper)', strokeWidth: 4 })),
    ],
  });
}

function models() {
  const { ways } = facts;
  if (!ways) return part('models', 'Models side by side', false, facts.absent.ways);
  const groups = grouped(ways.rows);
  const reference = ways.rows.find((row) => row.model === ways.reference) ?? ways.rows[0];
  const rows = groups.flatMap(([group, of]) => [{ group }, ...of]);
  const matched = { true: 'yes', false: 'no', null: 'not known' };
  const columns = [
    { head: 'Model', of: (row) => named(row.model) },
    { head: 'Kind', of: (row) => row.kind },
    { head: 'FLOPs a token', number: true, of: (row) => count(row.flops_per_token) },
    { head: 'Training tokens', number: true, of: (row) => count(row.training_tokens) },
    { head: 'Equal training', of: (row) => matched[row.matched] },
    { head: 'Perplexity', number: true, of: (row) => ppl(row.ppl) },
    { head: `over ${short(named(ways.reference), 16)}`, number: true,
      of: (row) => ratio(over(row.ppl, reference.ppl)) },
    { head: 'Novel', number: true, of: (row) => ppl(row.novel_ppl) },
    { head: `novel, over ${short(named(ways.reference), 16)}`, number: true,
      of: (row) => ratio(over(row.novel_ppl, reference.novel_ppl)) },
  ];
  rows.forEach((row) => { row.own = row === ways.rows[0]; });
  return part('models', 'Models side by side', true, null,
    of('p', { class: 'quiet' }, `Mean perplexity over domains, the same tokens for every row, in `
      + `windows of ${ways.window} tokens (${ways.source}, ${day(ways.created)}). Rows at the same `
      + 'inference cost stand together; the filled dot is the forest, the dashed line '
      + `${named(ways.reference)}.`),
    figure(drawnModels(ways, groups, reference), 'Perplexity of each model over that of the reference; the table '
      + 'below says the same'),
    of('div', { style: 'margin-top: 1.2rem' },
      table('Models, grouped by the models that are run for a token', columns, rows)),
    ...ways.notes.map(caution));
}
