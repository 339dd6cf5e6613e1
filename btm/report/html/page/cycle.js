// The last cycle as a Gantt chart: every try at every job, with failures and retries.

const KINDS = { done: 'var(--c2)', running: 'var(--c5)', stopped: 'var(--c6)', blocked: 'var(--c6)',
  cancelled: 'var(--c7)' };
const kindColour = (kind) => KINDS[kind] ?? 'var(--c4)';

/** Say what went wrong with a job, and how it ended after all; nothing of one that went well. */
function written(tries) {
  const failed = d3.rollups(tries.filter((each) => !['done', 'running'].includes(each.kind)),
    (of_) => of_.length, (each) => each.kind).map(([kind, times]) => `✕ ${kind}${times > 1 ? ` ${times} times` : ''}`);
  const last = tries.at(-1);
  if (last.kind === 'running') failed.push('… running');
  else if (failed.length && last.kind === 'done') failed.push(`done at try ${last.attempt}`);
  return failed.join(', ');
}

function gantt(cycle, begun) {
  const tries = cycle.tries.map((each) => ({ ...each, from: each.begun - begun,
    to: Math.max(each.ended, each.begun) - begun }));
  const whole = d3.max(tries, (each) => each.to) || 1;
  const [unit, name] = whole > 7200 ? [3600, 'hours'] : whole > 180 ? [60, 'minutes'] : [1, 'seconds'];
  const jobs = [...new Set(tries.map((each) => each.job))];
  const high = jobs.length > 60 ? 12 : 20;
  const ends = d3.groups(tries, (each) => each.job).map(([job, of_]) => ({ job, text: written(of_),
    at: d3.max(of_, (each) => Math.max(each.to, each.from + whole / 500)) / unit }));
  return Plot.plot({
    width: WIDE, height: 50 + high * jobs.length, marginLeft: 150, marginRight: 150, marginTop: jobs.length > 45 ? 40 : 8,
    marginBottom: 40, style: { fontSize: `${Math.min(12, high - 2)}px` },
    x: { label: `${name} from the first try`, grid: true, axis: jobs.length > 45 ? 'both' : 'bottom', domain: [0, whole / unit] },
    y: { domain: jobs, label: null, tickFormat: (job) => short(job, 22), tickSize: 0, padding: 0.25 },
    color: { type: 'identity' },
    marks: [
      Plot.barX(tries, { x1: (each) => each.from / unit, x2: (each) => Math.max(each.to, each.from + whole / 500) / unit,
        y: 'job', fill: (each) => kindColour(each.kind), rx: 2 }),
      Plot.text(ends.filter((each) => each.text), { x: 'at', y: 'job', text: 'text', textAnchor: 'start', dx: 5, fill: 'var(--ink)', stroke: 'var(--paper)', strokeWidth: 4,
        fontSize: Math.min(11, high - 1) }),
      Plot.tip(tries, Plot.pointer({ x: (each) => (each.from + each.to) / 2 / unit, y: 'job', maxRadius: 30,
        fill: 'var(--card)', stroke: 'var(--field)', fontSize: 12,
        title: (each) => `${each.job}, try ${each.attempt}: ${each.kind}\n${duration(each.to - each.from)}`
          + `${each.message ? `\n${each.message.slice(0, 120)}` : ''}` })),
    ],
  });
}

/** Show each job as it stands, as btm watch does; folded away once all are done. */
function standing(jobs) {
  if (!jobs.length) return null;
  const columns = [
    { head: 'Job', of: (each) => each.job },
    { head: 'State', of: (each) => each.state },
    { head: 'Try', number: true, of: (each) => each.attempt || null },
    { head: 'Step', number: true, of: (each) => each.step || null },
    { head: 'Loss', number: true, of: (each) => each.loss?.toFixed(3) },
    { head: 'Tokens/s', number: true, of: (each) => (each.speed == null ? null : d3.format(',')(each.speed)) },
    { head: 'Left', number: true, of: (each) => each.left },
    { head: 'Parents', words: true, of: (each) => each.parents || null },
    { head: 'Why', words: true, of: (each) => each.why || null },
  ];
  const make = () => table('Every job as it stands', columns, jobs, { shown: true, tall: jobs.length > 45 });
  return jobs.every((each) => each.state === 'done') ? folded('Every job as it stands', make) : make();
}

function cycle() {
  const found = facts.cycle;
  if (found && !found.tries.length && found.jobs.length) {
    return part('cycle', 'The last cycle', true, null, of('p', { class: 'quiet' },
      `Cycle ${found.id} is ${found.state} (cluster=${found.cluster}). No try has begun yet.`), standing(found.jobs));
  }
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
      + `${failed.length ? `${failed.length} did not end well` : 'none failed'}.`
      + `${found.waiting.length ? ` ${many(found.waiting.length, 'job')} had no try.` : ''}`),
    standing(found.jobs),
    legend(kinds.map((kind) => [kindColour(kind), kind])),
    scrolled('Gantt chart of the cycle', figure(gantt(found, begun),
      'Every try at every job over time; the table below says the same', true),
    new Set(found.tries.map((each) => each.job)).size > 45 ? 'scroll tall' : 'scroll'),
    folded('The same as a table', () => table('Every try at every job', columns, found.tries)));
}
