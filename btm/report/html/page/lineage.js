// Who descends from whom, by which weights.

const [BOX, HIGH, ACROSS, DOWN] = [158, 36, 110, 10];
const DRAWN = 400; // models: of more a picture shows nothing

/** Count for each model the steps of the longest way to it from one without parents. */
function depths(nodes) {
  const known = new Map(nodes.map((node) => [node.id, node]));
  const found = new Map();
  const depth = (id, above) => {
    if (found.has(id)) return found.get(id);
    if (above.has(id) || !known.has(id)) return 0; // forged: none is its own ancestor
    const next = new Set(above).add(id);
    found.set(id, d3.max(known.get(id).parents, (parent) => 1 + depth(parent.id, next)) ?? 0);
    return found.get(id);
  };
  nodes.forEach((node) => depth(node.id, new Set()));
  return found;
}

/** Place the models in columns by depth, each near the middle of its parents. */
function placed(nodes) {
  const depth = depths(nodes);
  const columns = d3.groups(nodes, (node) => depth.get(node.id)).sort((a, b) => a[0] - b[0]);
  const most = d3.max(columns, ([, column]) => column.length);
  const height = most * (HIGH + DOWN);
  const places = new Map();
  for (const [x, column] of columns) {
    const middle = (node) => d3.mean(node.parents.filter((each) => places.has(each.id)),
      (each) => places.get(each.id).y) ?? 0;
    const top = (height - column.length * (HIGH + DOWN)) / 2;
    d3.sort(column, (node) => node.kind !== 'ELM', middle).forEach((node, y) =>
      places.set(node.id, { node, x: x * (BOX + ACROSS), y: top + y * (HIGH + DOWN) + HIGH / 2 }));
  }
  return { places, height, width: columns.length * (BOX + ACROSS) - ACROSS };
}

function drawnLineage(nodes) {
  const { places, height, width } = placed(nodes);
  const boxes = [...places.values()];
  const edges = boxes.flatMap(({ node, x, y }) => {
    const parents = d3.sort(node.parents.filter((each) => places.has(each.id)), (each) => places.get(each.id).y);
    const apart = Math.min(11, 40 / Math.max(1, parents.length - 1)); // px, of the weights beside a child
    return parents.map((each, at) => ({ from: places.get(each.id), to: { x, y }, weight: each.weight, parent: each.name,
      child: node.name, beside: parents.length, aside: (at - (parents.length - 1) / 2) * apart }));
  });
  const about = (node) => [node.kind === 'ELM' ? null : node.kind, node.state === 'there' ? null : node.state,
    node.total_tokens ? `${count(node.total_tokens)} tokens` : null].filter(Boolean).join(', ');
  const link = d3.linkHorizontal().x((p) => p[0]).y((p) => p[1]);
  const svg = d3.create('svg').attr('width', width + 4).attr('height', height + 4)
    .attr('viewBox', `-2 -2 ${width + 4} ${height + 4}`);
  svg.append('g').attr('fill', 'none').attr('stroke', 'var(--field)').selectAll('path').data(edges)
    .join('path')
    .attr('d', (e) => link({ source: [e.from.x + BOX, e.from.y], target: [e.to.x, e.to.y] }))
    .attr('stroke-width', (e) => 0.6 + 2.6 * Math.max(0, Math.min(1, e.weight)))
    .attr('stroke-opacity', edges.length > 60 ? 0.45 : 0.8)
    .append('title')
    .text((e) => `${e.parent} → ${e.child}: ${e.weight.toPrecision(3)}`);
  const labelled = edges.filter((e) => e.beside <= 6);
  if (labelled.length <= 150) {
    svg.append('g').attr('font-size', 10.5).attr('fill', 'var(--quiet)').attr('text-anchor', 'end')
      .attr('stroke', 'var(--paper)').attr('stroke-width', 4).attr('paint-order', 'stroke')
      .selectAll('text').data(labelled).join('text')
      .attr('x', (e) => e.to.x - 6)
      .attr('y', (e) => e.to.y + e.aside + 3.5)
      .text((e) => (e.weight >= 0.9995 ? '1' : e.weight.toFixed(2)));
  }
  const groups = svg.append('g').selectAll('g').data(boxes).join('g')
    .attr('transform', (b) => `translate(${b.x},${b.y - HIGH / 2})`);
  groups.append('rect').attr('width', BOX).attr('height', HIGH).attr('rx', 7)
    .attr('fill', (b) => (b.node.kind === 'ELM' ? 'var(--card)' : 'var(--paper)'))
    .attr('stroke', (b) => (b.node.kind === 'ELM' ? 'var(--field)' : 'var(--line)'))
    .attr('stroke-dasharray', (b) => (b.node.state === 'there' ? null : '4 3'));
  groups.append('rect').attr('x', 0).attr('width', 5).attr('height', HIGH - 8).attr('y', 4).attr('rx', 2)
    .attr('fill', (b) => (b.node.kind === 'ELM' && experts.length <= COLOURS ? colourOf(b.node.name) : 'none'));
  groups.append('text').attr('x', 13).attr('y', (b) => (about(b.node) ? 15 : 22)).attr('font-size', 12.5)
    .attr('fill', 'var(--ink)').text((b) => short(b.node.name, 21));
  groups.append('text').attr('x', 13).attr('y', 29).attr('font-size', 10.5).attr('fill', 'var(--quiet)')
    .text((b) => about(b.node));
  groups.append('title').text((b) => b.node.name);
  return svg.node();
}

function lineage() {
  const nodes = facts.lineage;
  if (!nodes.length) return part('lineage', 'Lineage', false, 'No model stands in this forest yet.');
  const columns = [
    { head: 'Model', of: (node) => node.name },
    { head: 'Kind', of: (node) => node.kind + (node.state === 'there' ? '' : `, ${node.state}`) },
    { head: 'Parents and their weights', words: true,
      of: (node) => node.parents.map((each) => `${each.name} ${+each.weight.toPrecision(3)}`).join(', ') || '–' },
    { head: 'Domains', words: true, of: (node) => node.domains.join(', ') || '–' },
    { head: 'Tokens', number: true, of: (node) => count(node.tokens) },
    { head: 'With ancestors', number: true, of: (node) => count(node.total_tokens) },
  ];
  const svg = nodes.length > DRAWN ? null : drawnLineage(nodes);
  const label = 'Lineage, drawn; the table below says the same';
  return part('lineage', 'Lineage', true, null,
    of('p', { class: 'quiet' }, 'From parents to children: a line is as wide as the share of the parent in '
      + 'what the child began with, which stands beside it. What was removed is dashed.'),
    svg ? scrolled('Lineage, drawn', figure(svg, label, true), nodes.length > 40 ? 'scroll tall' : 'scroll')
      : of('p', { class: 'absent' }, `${nodes.length} models are too many for a picture.`),
    folded('The same as a table', () => table('Every model and its parents', columns, nodes)));
}
