// What the ensemble listens to: the prior of each domain, and the mean posterior over its tokens.

const FEW = 12; // experts of which bars can be told apart

function bars(found) {
  const heavy = d3.sort(d3.range(found.members.length),
    (at) => -d3.sum(found.posteriors, (row) => row[at])).slice(0, COLOURS);
  const among = experts.length <= COLOURS ? experts : heavy.map((at) => found.members[at]);
  const rows = found.domains.flatMap((domain, y) =>
    [['prior', found.priors[y]], ['posterior', found.posteriors[y]]].flatMap(([kind, row]) => {
      const known = among.map((name) => row[found.members.indexOf(name)] ?? 0);
      const ends = d3.cumsum([...known, Math.max(0, 1 - d3.sum(known))]);
      return [...among, 'others'].map((name, k) => ({ name, kind, domain: domainName(domain),
        from: ends[k - 1] ?? 0, to: ends[k], value: ends[k] - (ends[k - 1] ?? 0) }));
    }));
  const svg = Plot.plot({
    width: WIDE, marginLeft: 170, marginRight: 20, height: 50 + 19 * found.domains.length,
    style: { fontSize: '12px' },
    x: { label: null, percent: true, tickFormat: (value) => `${value} %`, domain: [0, 100] },
    y: { domain: found.domains.map(domainName), label: null, tickSize: 0, padding: 0.25 },
    fx: { domain: ['prior', 'posterior'], label: null,
      tickFormat: (kind) => (kind === 'prior' ? 'prior, before any token' : 'mean posterior over the tokens') },
    color: { type: 'identity' },
    marks: [
      Plot.barX(rows.filter((row) => row.value > 0.0005), { x1: 'from', x2: 'to', y: 'domain', fx: 'kind',
        fill: (row) => colourOf(row.name, among), stroke: 'var(--paper)', strokeWidth: 0.7 }),
      Plot.text(rows.filter((row) => row.value > 0.26), { x: (row) => (row.from + row.to) / 2, y: 'domain',
        fx: 'kind', text: (row) => short(row.name, 14), fill: 'var(--paper)', fontSize: 10 }),
    ],
  });
  const shown = among.map((name) => [colourOf(name, among), name]);
  return of('div', {}, legend([...shown, ...(found.members.length > among.length ? [['var(--rest)', 'others']] : [])]),
    figure(svg, 'Prior and mean posterior of the experts on each domain; the map below says the same'));
}

function weights() {
  const found = facts.evaluation;
  if (!found) return part('weights', 'Whom the ensemble listens to', false, facts.absent.evaluation);
  const amount = (name, values) => ({ name, values, written: share,
    colour: (value) => ['amount', DEEPEST * Math.sqrt(value)], ends: ['0 %', '100 %'],
    ramp: ['transparent', 'var(--amount)'], note: 'Colour goes with the square root of the weight.' });
  const map = () => heatFigure('weights', found.domains.map(domainName), found.members, {
    posterior: amount('Mean posterior', found.posteriors), prior: amount('Prior', found.priors),
  }, {});
  const isFew = found.members.length <= FEW && found.domains.length <= 40;
  return part('weights', 'Whom the ensemble listens to', true, null,
    of('p', { class: 'quiet' }, `The ${found.prior} prior of each domain, and what the rule ${found.rule} `
      + 'made of it on the average of the domain’s tokens.'),
    isFew ? bars(found) : null,
    isFew ? folded('All weights', map) : map());
}
