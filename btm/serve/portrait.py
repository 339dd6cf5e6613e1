"""A forest as the page of `btm serve` draws it: who descends from whom, who is good at what."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btm.errors import UserError, unknown
from btm.forest.paths import Paths
from btm.forest.relatives import Relative, relatives
from btm.report.heatmap import Grid
from btm.system.json_files import Json, parse_json, read_regular


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
    return Portrait(root.name, relatives(root), list(found), heat_map)


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
