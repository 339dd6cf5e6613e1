"""The picture of a forest: every ELM and the ensemble on every domain."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from btm import durable


def heatmap(result: Mapping[str, Any], path: Path) -> Path:
    """Write a PNG of an evaluation to `path`: rows are domains, columns ELMs, colours relative perplexity.

    A colour is log2 of the perplexity over the best single ELM's on that domain, so that rows compare;
    the figures are perplexities.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shards: dict[str, Any] = dict(sorted(result["shards"].items(), key=lambda item: item[1]["novel"]))
    first = next(iter(shards.values()))
    elms = sorted(first["experts"], key=lambda elm: (elm in first["prior"], elm))
    columns = ["ensemble", *elms]
    values = np.array(
        [
            [s["ensemble"]["perplexity"], *(s["experts"][e]["perplexity"] for e in elms)]
            for s in shards.values()
        ]
    )
    relative = np.log2(values / values[:, 1:].min(axis=1, keepdims=True))

    figure = Figure(
        figsize=(2.4 + 0.75 * len(columns), 1.8 + 0.36 * len(shards)), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(relative, cmap="RdYlGn_r", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(
        range(len(shards)), [f"{name}{' (novel)' if s['novel'] else ''}" for name, s in shards.items()]
    )

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
    axes.axvline(0.5, color="black", linewidth=1.5)
    axes.set_title(
        f"Perplexity in {result['forest']}: each ELM and the {result['ensemble']['prior']}-prior ensemble"
    )
    figure.colorbar(image, ax=axes, label="log2 (perplexity / best single ELM)")
    with durable.publish_file(path) as handle:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        handle.write(buffer.getvalue())
    return path
