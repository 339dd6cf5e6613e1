// The report, part after part.

function tile(name, value, about) {
  return of('div', { class: 'tile' }, of('dt', {}, name), of('dd', {}, value, about ? of('small', {}, about) : null));
}

function head() {
  const { evaluation, ways } = facts;
  document.getElementById('title').textContent = facts.forest;
  document.getElementById('about').textContent = `Written ${day(facts.created)} UTC by btm ${facts.version} `
    + `from ${facts.path}.`;
  const elms = facts.costs.filter((each) => each.kind === 'ELM');
  const tiles = [tile('Experts', experts.length, elms.length
    ? `${facts.model_type || 'models'} of ${count(elms[0].parameters)} parameters` : 'none stands yet')];
  if (ways) {
    const [own] = ways.rows;
    const reference = ways.rows.find((row) => row.model === ways.reference);
    const scope = (name, value, base) => value != null && tiles.push(tile(name, ppl(value),
      base && own !== reference ? `${(value / base).toFixed(3)} of ${short(named(ways.reference), 18)}` : null));
    scope('Perplexity', own.ppl, reference?.ppl);
    scope('Perplexity, novel', own.novel_ppl, reference?.novel_ppl);
  }
  if (evaluation) {
    const novel = evaluation.domains.filter((domain) => domain.novel).length;
    tiles.push(tile('Domains', evaluation.domains.length, novel ? `${novel} of them novel` : 'all trained on'));
  }
  tiles.push(tile('Training', count(d3.sum(elms, (each) => each.tokens)), `tokens, ${count(d3.sum(elms, (each) => each.flops))} FLOPs`));
  tiles.push(tile('On disk', bytes(d3.sum(facts.disk, (each) => each.bytes)), many(d3.sum(facts.disk, (each) => each.files), 'file')));
  const outdated = [...new Set(Object.values(facts.outdated).flat())];
  document.getElementById('main').append(...outdated.map(caution), of('dl', { class: 'tiles' }, ...tiles));
}

function scheme() {
  document.getElementById('scheme').addEventListener('change', (event) => {
    document.documentElement.dataset.scheme = event.target.value;
  });
}

// Paper has all that a screen folds away, but for tables that would fill a ream.
window.addEventListener('beforeprint', () => {
  if (facts.costs.length > 30) return;
  // Until none is left, for there are folds in folds.
  for (let fold; (fold = document.querySelector('details:not([open])'));) {
    fold.open = true;
    filled(fold); // now: the event of a fold that opens comes later, maybe after the printing
  }
});

/** Draw part after part; what fills the first screen is shown before the others are made. */
async function draw(parts) {
  for (const [at, each] of parts.entries()) {
    each();
    if (at < 2) await new Promise((done) => { setTimeout(done); });
  }
  document.documentElement.dataset.drawn = Math.round(performance.now()); // ms since it was opened
  if (window.history.state?.top) window.scrollTo({ top: window.history.state.top, behavior: 'instant' });
  else if (window.location.hash) document.querySelector(window.location.hash)?.scrollIntoView();
}

/** Read a page again that is written again and again, as long as its reader lets it. */
function live() {
  if (!facts.live) return;
  const box = of('input', { type: 'checkbox', checked: true });
  document.querySelector('.top').append(of('label', { class: 'live' }, box,
    ` Live: read again every ${facts.live} seconds`));
  const again = () => {
    if (!box.checked || document.hidden) return;
    window.history.replaceState({ top: window.scrollY }, '');
    window.location.reload();
  };
  window.setInterval(again, 1000 * facts.live);
}

scheme();
live();
head();
draw([models, heat, weights, tokens, lineage, curves, cycle, costs, languages, readers, benchmarks, cards,
  rebuilding]);
document.getElementById('foot').append('Drawn with d3 and Observable Plot (ISC licence), which stand in this '
  + 'file with their licences. Nothing was asked of a network.');
