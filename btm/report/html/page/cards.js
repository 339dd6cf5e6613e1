// The card of each model, and how the forest is grown again.

function told(value) {
  if (value == null) return '–';
  if (Array.isArray(value)) return value.map(told).join(', ');
  if (typeof value === 'object') {
    return Object.entries(value).map(([key, inner]) =>
      `${key}: ${typeof inner === 'object' && inner ? `(${told(inner)})` : told(inner)}`).join('; ');
  }
  return typeof value === 'number' && !Number.isInteger(value) ? d3.format('.6~g')(value) : String(value);
}

function card(each) {
  const about = each.domains?.length ? ` · ${each.domains.length > 3 ? many(each.domains.length, 'domain')
    : each.domains.join(', ')}` : '';
  const nats = each.valid_nats == null ? '' : ` · ${each.valid_nats.toFixed(3)} nats`;
  const summary = of('summary', {}, of('b', {}, each.name),
    of('span', { class: 'quiet' }, ` ${each.kind}${about}${nats}`));
  return folded(summary, () => of('dl', {}, ...Object.entries(each).flatMap(([key, value]) =>
    [of('dt', {}, key.replaceAll('_', ' ')), of('dd', {}, told(value))])));
}

function cards() {
  if (!facts.cards.length) return part('cards', 'Cards', false, 'No model stands in this forest yet.');
  return part('cards', 'Cards', true, null,
    of('p', { class: 'quiet' }, 'The provenance of each model, as it is sealed beside its weights. Losses are '
      + 'nats per token on valid text.'),
    of('div', { class: 'cards' }, ...facts.cards.map(card)));
}

function rebuilding() {
  const found = facts.rebuilding;
  if (!found) return part('rebuilding', 'Grown again', false, facts.absent.rebuilding);
  const copy = of('button', { type: 'button' }, 'Copy');
  copy.addEventListener('click', async () => {
    await navigator.clipboard?.writeText(found.command).catch(() => {});
    copy.textContent = 'Copied';
  });
  return part('rebuilding', 'Grown again', true, null,
    of('p', { class: 'quiet' }, 'The commands that grow this forest again, from what it records.'),
    of('pre', { tabindex: 0, role: 'region', 'aria-label': 'Commands' }, of('code', {}, found.command)),
    of('div', { class: 'row' }, copy),
    ...found.notes.map((note) => of('p', { class: 'quiet' }, note)),
    folded('All settings', () => of('pre', { tabindex: 0, role: 'region', 'aria-label': 'Settings' },
      of('code', {}, JSON.stringify({ settings: found.settings, suites: found.suites }, null, 1)))));
}
