"""A lineage as text, as a Mermaid flowchart and as a Graphviz digraph. Labels come from cards, so
they are escaped.
"""

from collections.abc import Callable, Iterable

from btm.forest.lineage import Key, Lineage
from btm.report.tables import TableRow


def text(lineage: Lineage, key: Key) -> str:
    """Draw the ancestors and the descendants of one model as two trees.

    What can be reached twice is drawn whole once. A line says the weight of its edge and the share
    of the farther end.
    """
    above, below = lineage.ancestors(key), lineage.descendants(key)
    lines = [
        f"{lineage.nodes[key].label}",
        "",
        "ancestors: weight of the edge, share of what it began with",
    ]
    lines += _tree(lineage, key, lambda at: lineage.nodes[at].parents, above) or ["  none: a root"]
    lines += ["", f"descendants: weight of the edge, share of {key.name} in what they began with"]
    lines += _tree(lineage, key, lambda at: lineage.children[at], below) or ["  none"]
    return "\n".join(lines)


def forest_text(lineage: Lineage) -> str:
    """Draw every tree of a forest, from its roots down."""
    lines: list[str] = []
    seen: set[Key] = set()
    for key in sorted(key for key, node in lineage.nodes.items() if not node.parents):
        lines.append(lineage.nodes[key].label)
        lines += _tree(lineage, key, lambda at: lineage.children[at], {}, seen)
    return "\n".join(lines)


def mermaid(lineage: Lineage, keys: Iterable[Key]) -> str:
    """Draw a Mermaid flowchart of the models `keys`: parents above children, edges with weights."""
    ids = {key: f"n{i}" for i, key in enumerate(keys)}
    lines = ["flowchart TD"]
    lines += [f'  {ids[key]}["{_mermaid(lineage.nodes[key].label)}"]' for key in ids]
    lines += [
        f"  {ids[one]} -->|{weight:.4g}| {ids[other]}"
        for one, other, weight in _edges(lineage, ids)
    ]
    away = [ids[key] for key in ids if lineage.nodes[key].state != "there"]
    if away:
        lines += ["  classDef away stroke-dasharray: 4 4", f"  class {','.join(away)} away"]
    return "\n".join(lines)


def graphviz(lineage: Lineage, keys: Iterable[Key]) -> str:
    """Draw a Graphviz digraph of the models `keys`, weights on the edges."""
    ids = {key: f"n{i}" for i, key in enumerate(keys)}
    lines = ["digraph lineage {", "  node [shape=box];"]
    for key, name in ids.items():
        style = "" if lineage.nodes[key].state == "there" else ", style=dashed"
        lines.append(f'  {name} [label="{_graphviz(lineage.nodes[key].label)}"{style}];')
    lines += [
        f'  {ids[a]} -> {ids[b]} [label="{weight:.4g}"];' for a, b, weight in _edges(lineage, ids)
    ]
    return "\n".join([*lines, "}"])


def rows(lineage: Lineage, shares: dict[Key, float | None], of: str) -> list[TableRow]:
    """Return ancestors or descendants as rows."""
    return [
        {
            "of": of,
            "name": key.name,
            "what": key.kind,
            "state": lineage.nodes[key].state,
            "share": share,
            "parents": {
                parent.name: weight for parent, weight in lineage.nodes[key].parents.items()
            },
            "sha256": key.sha256,
        }
        for key, share in shares.items()
    ]


def _tree(
    lineage: Lineage,
    root: Key,
    edges: Callable[[Key], dict[Key, float]],
    shares: dict[Key, float | None],
    seen: set[Key] | None = None,
) -> list[str]:
    """Draw the lines below `root`; without recursion, for which long descents are too deep."""
    seen = set() if seen is None else seen
    lines: list[str] = []
    stack: list[tuple[str, Key, float, bool]] = []

    def push(prefix: str, at: Key) -> None:
        found = sorted(edges(at).items(), key=lambda item: (-item[1], item[0]))
        for i, (key, weight) in reversed(list(enumerate(found))):
            stack.append((prefix, key, weight, i == len(found) - 1))

    push("  ", root)
    while stack:
        prefix, key, weight, last = stack.pop()
        share = shares.get(key)
        told = f"  {weight:.4g}" + (f"  ({share:.4g})" if share is not None else "")
        again = key in seen and bool(edges(key))
        lines.append(
            f"{prefix}{'└─' if last else '├─'} "
            f"{lineage.nodes[key].label}{told}{'  …as above' if again else ''}"
        )
        if key not in seen:
            seen.add(key)
            push(prefix + ("   " if last else "│  "), key)
    unknown = [key for key, share in shares.items() if share is None]
    return lines + [
        f"  {lineage.nodes[key].label}  (what stood in between is gone)" for key in unknown
    ]


def _edges(lineage: Lineage, ids: dict[Key, str]) -> Iterable[tuple[Key, Key, float]]:
    for key in ids:
        for parent, weight in lineage.nodes[key].parents.items():
            if parent in ids:
                yield parent, key, weight


def _mermaid(label: str) -> str:
    """Return a label whose every character but the plainest is an entity code."""
    return "".join(
        c if c.isascii() and (c.isalnum() or c in " ._-()") else f"#{ord(c)};" for c in label
    )


def _graphviz(label: str) -> str:
    """Return a label for a double-quoted string."""
    plain = "".join(c if c.isprintable() else " " for c in label)
    return plain.replace("\\", "\\\\").replace('"', '\\"')
