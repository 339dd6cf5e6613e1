// Languages, readers and benchmarks.

function languages() {
  const rows = facts.languages;
  if (!rows.length) return part('languages', 'Languages', false, facts.absent.languages);
  const columns = [
    { head: 'Language', of: (row) => row.tag },
    { head: 'Experts', words: true, of: (row) => row.experts.join(', ') },
    { head: 'Domains', words: true, of: (row) => row.domains.join(', ') },
    { head: 'Perplexity of the ensemble', number: true, of: (row) => ppl(row.ppl) },
    { head: 'of the seed', number: true, of: (row) => ppl(row.seed_ppl) },
    { head: 'Bits per byte', number: true, of: (row) => row.bits_per_byte?.toFixed(3) },
  ];
  return part('languages', 'Languages', true, null,
    of('p', { class: 'quiet' }, 'As the cards of the experts name them; bits per byte compare across '
      + 'languages and tokenizers.'),
    table('Results by language', columns, rows));
}

function readers() {
  const rows = facts.readings;
  if (!rows.length) return part('readers', 'Readers', false, facts.absent.readers);
  const groups = d3.groups(rows, (row) => `${row.reader} · ${row.split}, ${many(row.questions, 'question')} · ${row.metric}`);
  const drawn = groups.map(([name, of_]) => {
    const marks = of_.map((row) => ({ ...row, name: short(named(row.on || row.reader), 28) }));
    return of('div', {}, of('h3', {}, name), figure(Plot.plot({
      width: Math.min(WIDE, 760), height: 46 + 22 * marks.length, marginLeft: 200, marginRight: 60,
      style: { fontSize: '12px' },
      x: { label: null, grid: true, domain: [Math.min(0, d3.min(marks, (m) => m.low)), d3.max(marks, (m) => m.high) || 1] },
      y: { label: null, tickSize: 0, domain: marks.map((mark) => mark.name) },
      marks: [
        Plot.ruleY(marks, { y: 'name', x1: 'low', x2: 'high', stroke: 'var(--quiet)', strokeWidth: 2 }),
        Plot.dot(marks, { y: 'name', x: 'mean', r: 5, fill: 'var(--c0)' }),
        Plot.text(marks, { y: 'name', x: 'high', text: (mark) => d3.format('.3~f')(mark.mean), dx: 8,
          textAnchor: 'start', fill: 'var(--ink)' }),
      ],
    }), `${name}: means with their 95 % intervals; the table below says the same`));
  });
  const columns = [
    { head: 'Reader', of: (row) => row.reader }, { head: 'Stands on', of: (row) => named(row.on) || '–' },
    { head: 'Split', of: (row) => row.split },
    { head: 'Questions', number: true, of: (row) => d3.format(',')(row.questions) },
    { head: 'Metric', of: (row) => row.metric },
    { head: 'Mean', number: true, of: (row) => row.mean.toFixed(3) },
    { head: '95 % interval', number: true, of: (row) => `${row.low.toFixed(3)} to ${row.high.toFixed(3)}` },
  ];
  return part('readers', 'Readers', true, null,
    of('p', { class: 'quiet' }, 'Questions answered on top of the forest: means over questions, with 95 % '
      + 'intervals by the bootstrap.'),
    ...drawn, folded('The same as a table', () => table('Every reader and metric', columns, rows)));
}

function benchmarks() {
  const rows = facts.benchmarks;
  if (!rows.length) return part('benchmarks', 'Benchmarks', false, facts.absent.benchmarks);
  const names = [...new Set(rows.flatMap(Object.keys))];
  return part('benchmarks', 'Benchmarks', true, null,
    of('p', { class: 'quiet' }, 'The first metric of each task of lm-evaluation-harness; an arrow says '
      + 'which way is better.'),
    table('Models by tasks', names.map((name) => ({ head: name, of: (row) => row[name] })), rows));
}
