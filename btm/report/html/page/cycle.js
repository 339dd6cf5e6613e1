// The last cycle as a Gantt chart: every try at every job, with failures and retries.

const KINDS = { done: 'var(--c2)', running: 'var(--c5)', stopped: 'var(--c6)', blocked: 'var(--c6)',
  cancelled: 'var(--c7)' };
const kindColour = (kind) => KINDS[kind] ?? 'var(--c4)';

function gantt(cycle, begun) {
  const tries = cycle.tries.map((each) => ({ ...each, from: each.begun - begun,
    to: Math.max(each.ended, each.begun) - begun }));
  const whole = d3.max(tries, (each) => each.to) || 1;
  const [unit, name] = whole > 7200 ? [3600, 'hours'] : whole > 180 ? [60, 'minutes'] : [1, 'seconds'];
  const jobs = [...new Set(tries.map((each) => each.job))];
  const high = jobs.length > 60 ? 12 : 20;
  const written = (each) => [each.kind === 'done' ? '' : `✕ ${each.kind}`.replace('✕ running', '… running'),
    each.attempt > 1 ? `try ${each.attempt}` : ''].filter(Boolean).join(', ');
  return Plot.plot({
    width: WIDE, height: 50 + high * jobs.length, marginLeft: 150, marginRight: 110, marginTop: 8,
    marginBottom: 40, style: { fontSize: `${Math.min(12, high - 2)}px` },
    x: { label: `${name} from the first try`, grid: true, domain: [0, whole / unit] },
    y: { domain: jobs, label: null, tickFormat: (job) => short(job, 22), tickSize: 0, padding: 0.25 },
    color: { type: 'identity' },
    marks: [
      Plot.barX(tries, { x1: (each) => each.from / unit, x2: (each) => Math.max(each.to, each.from + whole / 500) / unit,
        y: 'job', fill: (each) => kindColour(each.kind), rx: 2 }),
      Plot.text(tries.filter(written), { x: (each) => Math.max(each.to, each.from + whole / 500) / unit, y: 'job',
        text: written, textAnchor: 'start', dx: 5, fill: 'var(--ink)', stroke: 'var(--paper)', strokeWidth: 4,
        fontSize: Math.min(11, high - 1) }),
      Plot.tip(tries, Plot.pointer({ x: (each) => (each.from + each.to) / 2 / unit, y: 'job', maxRadius: 30,
        fill: 'var(--card)', stroke: 'var(--field)', fontSize: 12,
        title: (each) => `${each.job}, try ${each.attempt}: ${each.kind}\n${duration(each.to - each.from)}`
          + `${each.message ? `\n${each.message.slice(0, 120)}` : ''}` })),
    ],
  });
}

function cycle() {
  const found = facts.cycle;
  if (!found || !found.tries.length) {
    return part('cycle', 'The last cycle', false, facts.absent.cycle ?? 'No try has begun yet.');
  }
  const begun = d3.min(found.tries, (each) => each.begun);
  const failed = found.tries.filter((each) => !['done', 'running'].includes(each.kind));
  const kinds = [...new Set(found.tries.map((each) => each.kind))];
  const columns = [
    { head: 'Job', of: (each) => each.job },
    { head: 'Try', number: true, of: (each) => each.attempt },
    { head: 'End', of: (each) => each.kind },
    { head: 'Begun after', number: true, of: (each) => duration(each.begun - begun) },
    { head: 'Lasted', number: true, of: (each) => duration(each.ended - each.begun) },
    { head: 'Why', words: true, of: (each) => each.message || '–' },
  ];
  return part('cycle', 'The last cycle', true, null,
    of('p', { class: 'quiet' }, `Cycle ${found.id} is ${found.state} (cluster=${found.cluster}): `
      + `${many(found.tries.length, 'try').replace('trys', 'tries')} at `
      + `${many(new Set(found.tries.map((each) => each.job)).size, 'job')} in `
      + `${duration(d3.max(found.tries, (each) => each.ended) - begun)}; `
      + `${failed.length ? `${failed.length} did not end well` : 'all ended well'}.`
      + `${found.waiting.length ? ` ${many(found.waiting.length, 'job')} had no try.` : ''}`),
    legend(kinds.map((kind) => [kindColour(kind), kind])),
    scrolled('Gantt chart of the cycle', figure(gantt(found, begun),
      'Every try at every job over time; the table below says the same'),
    new Set(found.tries.map((each) => each.job)).size > 45 ? 'scroll tall' : 'scroll'),
    folded('The same as a table', () => table('Every try at every job', columns, found.tries)));
}
