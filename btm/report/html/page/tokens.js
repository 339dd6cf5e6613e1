// The posterior over the tokens of sample documents.

function shownText(text) {
  return text === '' ? '·' : text;
}
const plain = (text) => (text === '' ? '∅' : text.replaceAll('\n', '↵').replaceAll('\t', '⇥')
  .replaceAll(' ', '␣'));

function area(sample, colours) {
  const rows = sample.texts.flatMap((_, at) => {
    const row = sample.weights[at];
    const known = row.map((value, k) => ({ at, name: sample.experts[k], value }));
    return [...known, { at, name: 'others', value: Math.max(0, 1 - d3.sum(row)) }];
  });
  return Plot.plot({
    width: WIDE, height: 130, marginLeft: 40, marginRight: 4, marginBottom: 26, style: { fontSize: '11px' },
    x: { label: 'token', domain: [0, sample.texts.length], ticks: 8 },
    y: { percent: true, label: null, domain: [0, 100], ticks: 3, tickFormat: (value) => `${value} %` },
    color: { type: 'identity' },
    marks: [
      // Steps, for the weights hold for one token each; two points a token make them.
      Plot.areaY(rows.flatMap((row) => [row, { ...row, at: row.at + 1, end: true }]), {
        ...Plot.stackY({ x: (row) => row.at + (row.end ? -0.0001 : 0), y: 'value', z: 'name',
          order: [...sample.experts, 'others'], fill: (row) => colours(row.name) }) }),
      Plot.ruleX(sample.begins.filter((at) => at), { stroke: 'var(--ink)', strokeDasharray: '2 3' }),
    ],
  });
}

function sampleView(sample) {
  const among = experts.length <= COLOURS ? experts : sample.experts;
  const colours = (name) => colourOf(name, among);
  const leads = sample.weights.map((row) => sample.experts[d3.maxIndex(row)]);
  const letters = new Map(sample.experts.map((name) => [name, letterOf(among.indexOf(name))]));
  const told = of('p', { class: 'told', 'aria-live': 'polite' },
    'Point at a token, or move from token to token with the arrow keys.');
  const spans = sample.texts.map((text, at) => {
    const made = coloured(of('span', { class: 'token' }, shownText(text)), colours(leads[at]));
    made.style.setProperty('--share', `${(38 * d3.max(sample.weights[at])).toFixed(0)}%`);
    if (at === 0 || leads[at] !== leads[at - 1]) made.dataset.mark = letters.get(leads[at]);
    return made;
  });
  const holder = of('div', { class: 'tokens', tabindex: 0, role: 'application',
    'aria-label': `The first ${spans.length} tokens of ${sample.domain}, coloured by the expert that `
      + 'weighs most before each; arrow keys move' }, ...spans);
  walked(holder, told, [spans.length, 1], (event) => {
    const at = spans.indexOf(event.target);
    return at < 0 ? null : [at, 0];
  }, (at) => {
    spans.forEach((each, n) => each.classList.toggle('here', n === at));
    const heavy = d3.sort(d3.range(sample.experts.length), (k) => -sample.weights[at][k])
      .filter((k) => sample.weights[at][k] >= 0.005).slice(0, 5);
    return [of('b', {}, plain(sample.texts[at])), ` (token ${at + 1}): ensemble `
      + `${sample.nats[at].toFixed(2)} nats; before it `,
    heavy.map((k) => `${sample.experts[k]} ${share(sample.weights[at][k])} `
      + `(${sample.expert_nats[at][k].toFixed(2)} nats)`).join(', ')];
  });
  const named = of('ul', { class: 'legend' }, ...sample.experts.map((name) => of('li', {},
    coloured(of('span', { class: 'letter', 'aria-hidden': 'true' }, letters.get(name)), colours(name)),
    `${name} ${share(d3.mean(sample.weights, (row) => row[sample.experts.indexOf(name)]))}`)));
  return [of('p', { class: 'quiet' }, `${sample.domain}${sample.novel ? ', a novel domain' : ''}: mean loss `
    + `of the ensemble ${d3.mean(sample.nats).toFixed(3)} nats/token over these ${spans.length} tokens.`),
  named, figure(area(sample, colours), `Weights of the experts before each token of ${sample.domain}`),
  holder, told];
}

function tokens() {
  const { samples } = facts;
  if (!samples.length) return part('tokens', 'Token by token', false, facts.absent.samples);
  const place = of('div', {});
  // The first is the one whose leading expert changes most often in a line: there is most to see.
  const leads = (sample) => sample.weights.map((row) => d3.maxIndex(row));
  const turns = (sample) => d3.sum(leads(sample), (lead, at, all) => lead !== (all[at - 1] ?? lead));
  const options = d3.sort(samples.map((sample, at) => [at, sample.domain + (sample.novel ? ' (novel)' : '')]),
    ([at]) => -turns(samples[at]) / (1 + d3.sum(samples[at].texts, (text) => text.split('\n').length - 1)));
  place.replaceChildren(...sampleView(samples[options[0][0]]));
  return part('tokens', 'Token by token', true, null,
    of('p', { class: 'quiet' }, 'The posterior over the experts before each token of sample text, from '
      + 'cached scores. A token has the colour of the expert that weighs most, the stronger the more it '
      + 'weighs; a letter stands where another one begins to lead.'),
    of('div', { class: 'row' }, choice('Text of', options, (at) => place.replaceChildren(...sampleView(samples[at])))),
    place);
}
