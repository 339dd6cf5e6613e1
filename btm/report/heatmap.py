"""The heat map of an evaluation: every ELM and the ensemble on every domain."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from btm.report.progress import drawn, short
from btm.system import durable
from btm.system.json_files import Json


@dataclass(frozen=True)
class Grid:
    """Perplexities of an evaluation: D domains by M models, and which are of what kind.

    The columns are the ensemble, then the averages and other models measured beside it, then the
    ELMs; domains that no ELM was trained on come last.
    """

    domains: list[str]  # D
    novel: frozenset[str]
    columns: list[str]  # M
    others: int  # columns between the ensemble and the ELMs
    perplexities: np.ndarray  # (D, M)

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "Grid":
        """Read the content of an evaluation's file."""
        shards: Json = dict(sorted(result["shards"].items(), key=lambda item: item[1]["novel"]))
        first = next(iter(shards.values()))
        elms = sorted(first["experts"], key=lambda elm: (elm in first["prior"], elm))
        others = list(first.get("models", {}))  # absent in evaluations by earlier versions
        values = np.array([_perplexities(shard, others, elms) for shard in shards.values()])
        novel = frozenset(name for name, shard in shards.items() if shard["novel"])
        return cls(list(shards), novel, ["ensemble", *others, *elms], len(others), values)

    @property
    def over_best(self) -> np.ndarray:
        """Compute log2 of each perplexity over the best single ELM's on that domain, (D, M)."""
        best = self.perplexities[:, 1 + self.others :].min(axis=1, keepdims=True)
        return np.log2(self.perplexities / best)


def heatmap(result: Mapping[str, Any], path: Path) -> Path:
    """Draw an evaluation as a PNG at `path`: rows are domains, columns models.

    A colour is log2 of the perplexity over the best single ELM's on that domain, so that rows
    compare; the figures are perplexities. After the ensemble come the averages and other models
    measured beside it, then the ELMs, with lines between the three.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = Grid.of(result)
    others, values, relative = grid.others, grid.perplexities, grid.over_best
    labels = [f"{name} (novel)" if name in grid.novel else name for name in grid.domains]

    figure = Figure(
        figsize=(2.4 + 0.75 * len(grid.columns), 1.8 + 0.36 * len(labels)),
        dpi=120,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(relative, cmap="RdYlGn_r", vmin=-1, vmax=1, aspect="auto")
    names = [short(name) for name in grid.columns]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)

    def ink(row: int, column: int) -> str:
        return "white" if abs(relative[row, column]) > 0.75 else "black"

    for row, line in enumerate(values):
        for column, value in enumerate(line):
            axes.text(
                column,
                row,
                f"{value:.0f}" if value >= 100 else f"{value:.3g}",
                ha="center",
                va="center",
                fontsize=7,
                color=ink(row, column),
            )
    for line_at in {0.5, 0.5 + others}:
        axes.axvline(line_at, color="black", linewidth=1.5)
    axes.set_title(
        f"Perplexity in {drawn(result['forest'])}: the {result['ensemble']['prior']}-prior "
        "ensemble, " + ("averages and other models, " if others else "") + "each ELM"
    )
    figure.colorbar(image, ax=axes, label="log2 (perplexity / best single ELM)")
    with durable.publish_file(path) as handle:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        handle.write(buffer.getvalue())
    return path


def _perplexities(
    shard: Mapping[str, Any], others: Sequence[str], elms: Sequence[str]
) -> list[float]:
    """List the perplexities of one shard in the order of the columns."""
    entries = [shard["ensemble"], *(shard["models"][name] for name in others)]
    return [entry["perplexity"] for entry in (*entries, *(shard["experts"][name] for name in elms))]
