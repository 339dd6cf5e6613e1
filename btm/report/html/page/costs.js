// What was spent and what is kept: tokens, FLOPs, bytes.

function costs() {
  const rows = facts.costs;
  if (!rows.length) return part('costs', 'Costs', false, 'No model stands in this forest yet.');
  const own = d3.sum(rows.filter((row) => row.kind === 'ELM'), (row) => row.tokens);
  const flops = d3.sum(rows.filter((row) => row.kind === 'ELM'), (row) => row.flops);
  const most = d3.max(rows, (row) => row.flops) || 1;
  const bar = (value) => {
    const made = of('span', { class: 'bar', 'aria-hidden': 'true' });
    made.style.width = `${(70 * value) / most}px`;
    return of('span', {}, made, count(value) ?? '0');
  };
  const columns = [
    { head: 'Model', of: (row) => row.name },
    { head: 'Kind', of: (row) => row.kind },
    { head: 'Parameters', number: true, of: (row) => count(row.parameters) },
    { head: 'Tokens', number: true, of: (row) => count(row.tokens) },
    { head: 'FLOPs of its training', of: (row) => bar(row.flops) },
    { head: 'Tokens with ancestors', number: true, of: (row) => count(row.total_tokens) },
    { head: 'FLOPs with ancestors', number: true, of: (row) => count(row.total_flops) },
    { head: 'On disk', number: true, of: (row) => bytes(row.bytes) },
  ];
  const all = d3.sum(facts.disk, (each) => each.bytes);
  const widest = d3.max(facts.disk, (each) => each.bytes) || 1;
  const kept = [
    { head: 'Folder', of: (each) => each.folder },
    { head: 'Bytes', of: (each) => {
      const made = of('span', { class: 'bar', 'aria-hidden': 'true' });
      made.style.width = `${(160 * each.bytes) / widest}px`;
      return of('span', {}, made, bytes(each.bytes));
    } },
    { head: 'Files', number: true, of: (each) => d3.format(',')(each.files) },
    { head: 'Share', number: true, of: (each) => share(each.bytes / (all || 1)) },
  ];
  return part('costs', 'Costs', true, null,
    of('p', { class: 'quiet' }, `${count(own)} tokens and ${count(flops)} FLOPs trained all ELMs, each `
      + 'ancestor counted once; what earlier training of imported models took is not known.'),
    of('h3', {}, 'Ledger'), table('Training and size of each model', columns, rows),
    of('h3', {}, `On disk: ${bytes(all)}`), table('Bytes of each folder', kept, facts.disk));
}
