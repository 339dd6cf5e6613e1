"""A forest as the page of `btm serve` draws it: who descends from whom, who is good at what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btm.errors import UserError, unknown
from btm.forest import index, tombstone
from btm.forest.index import Entry
from btm.forest.lineage import ELM, Key, Lineage, Node
from btm.forest.paths import Paths
from btm.report.heatmap import Grid
from btm.system.json_files import Json, parse_json, read_regular


@dataclass(frozen=True)
class Parent:
    """A parent, and its share of the parameters that a child began with."""

    id: str
    name: str
    weight: float


@dataclass(frozen=True)
class Relative:
    """One model of a lineage: a name may have stood for several, so each has an id."""

    id: str
    name: str
    kind: str  # ELM, average, student, MoE or branch
    state: str  # there, removed, or gone (deleted by hand)
    domains: list[str]
    parents: list[Parent]
    tokens: int | None  # that it was itself trained on; None where no card tells
    total_tokens: int | None  # with those of its ancestors


@dataclass(frozen=True)
class Row:
    """A domain of a heat map."""

    domain: str
    novel: bool  # no ELM was trained on it
    perplexities: list[float]
    over_best: list[float]  # log2 (perplexity / that of the best single ELM)


@dataclass(frozen=True)
class HeatMap:
    """An evaluation: the ensemble, averages and ELMs on every domain."""

    name: str
    created: str
    rule: str
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Portrait:
    """A forest as the explorer draws it."""

    forest: str
    lineage: list[Relative]
    evaluations: list[str]  # the forest's own first
    heat_map: HeatMap | None  # None: nothing was evaluated yet


def portrait(root: Path, evaluation: str | None = None) -> Portrait:
    """Read a forest, with the evaluation of that name; None: the forest's own, or the first.

    Raises `UserError` if there is no such evaluation.
    """
    found = _evaluations(root)
    if evaluation is not None and evaluation not in found:
        raise unknown("evaluation", evaluation, found, str(root))
    chosen = evaluation or next(iter(found), None)
    heat_map = None if chosen is None else found[chosen]
    return Portrait(root.name, _lineage(root), list(found), heat_map)


def _lineage(root: Path) -> list[Relative]:
    """List the ELMs by name, then what was made of them, and last what is no more."""
    lineage, tokens = Lineage.of(root), _tokens(root)
    nodes = lineage.nodes.values()
    order = sorted(nodes, key=lambda n: (n.state != "there", n.key.kind != ELM, n.key))
    return [_relative(node, tokens.get(node.key)) for node in order]


def _relative(node: Node, entry: Entry | None) -> Relative:
    parents = [Parent(_id(key), key.name, weight) for key, weight in node.parents.items()]
    known = entry is not None and not entry.damaged
    return Relative(
        _id(node.key),
        node.key.name,
        node.key.kind,
        node.state,
        list(node.domains),
        parents,
        entry.tokens if entry is not None and known else None,
        entry.total_tokens if entry is not None and known else None,
    )


def _id(key: Key) -> str:
    return f"{key.kind}:{key.name}:{key.sha256[:16]}"


def _tokens(root: Path) -> Mapping[Key, Entry]:
    """Find what the cards tell of all models, removed ones too."""
    stones = [Entry.of(stone.name, stone.card) for stone in tombstone.all_of(root)]
    entries = [*stones, *index.entries(root)]
    return {Key(entry.kind, entry.name, entry.sha256): entry for entry in entries}


def _evaluations(root: Path) -> dict[str, HeatMap]:
    """Read the evaluations that stand, the forest's own first; other files there are passed over.

    Comparisons and rankings stand in the same folder, and evaluations by earlier versions may lack
    what is drawn.
    """
    found: dict[str, HeatMap] = {}
    own = Paths(root).evaluation(None)
    for file in sorted(Paths(root).evals.glob("*.json"), key=lambda file: (file != own, file.name)):
        try:
            heat_map = _heat_map(file.stem, parse_json(read_regular(file)))
        except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
            continue
        found[file.stem] = heat_map
    return found


def _heat_map(name: str, result: Json) -> HeatMap:
    grid = Grid.of(result)
    over_best = grid.over_best
    if not (np.isfinite(grid.perplexities).all() and np.isfinite(over_best).all()):
        raise ValueError("a perplexity is no number")  # JSON has none for it
    rows = [
        Row(domain, domain in grid.novel, grid.perplexities[at].tolist(), over_best[at].tolist())
        for at, domain in enumerate(grid.domains)
    ]
    rule = str(result["ensemble"].get("rule", "bayes"))
    return HeatMap(name, str(result["created"]), rule, grid.columns, rows)
