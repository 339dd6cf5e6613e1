"""The picture of a comparison: each model's perplexity relative to the reference, by domain."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from btm.report.comparison import SEED, Comparison, Row, Scope
from btm.report.progress import short
from btm.system import durable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BETTER, _WORSE = "#2f855a", "#c05621"  # bars of the ensemble: ahead of the reference, behind it
_MARKS = ("s", "D", "v", "P", "X", "<", ">", "p")  # of averages, models and rival forests
_COLOURS = ("#6b46c1", "#d53f8c", "#2b6cb0", "#b7791f", "#0d9488", "#9b2c2c", "#4c51bf", "#975a16")
# Ticks where the largest ratio is less than twice the smallest, and where it is more.
_FINE = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.7, 1.9)
_COARSE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 4, 6, 9, 20, 50)
_MOST = len(_MARKS)  # rows: more cannot be told apart


@dataclass(frozen=True)
class _Line:
    """One line, a domain or a mean over domains, with one ratio per row in their order."""

    label: str
    ratios: list[float]
    is_mean: bool = False


def draw(found: Comparison, path: Path) -> Path:
    """Draw a comparison as a PNG: bars are the ensemble, marks other rows, 1.0 the reference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = shown(found)
    named = {
        "trained domains": _lines(found, rows, novel=False),
        "novel domains": _lines(found, rows, novel=True),
    }
    named = {name: lines for name, lines in named.items() if lines}
    groups = list(named.values())
    count = sum(len(lines) for lines in groups)
    figure = Figure(figsize=(9.5, 2.6 + 0.34 * count), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    parts: list[Axes] = figure.subplots(
        len(groups), 1, sharex=True, squeeze=False, height_ratios=[len(lines) for lines in groups]
    )[:, 0].tolist()
    for axes, (name, lines) in zip(parts, named.items(), strict=True):
        _draw_group(axes, lines, rows)
        # A group of three lines or fewer has room for one word only.
        axes.set_ylabel(name if len(lines) > 3 else name.split()[0], fontsize=11, fontweight="bold")
    _scale(parts, groups)
    _name_the_line(parts[0], found)
    parts[-1].set_xlabel(_axis_label(found))
    handles, names = parts[0].get_legend_handles_labels()
    handles, names = [handles[-1], *handles[:-1]], [names[-1], *names[:-1]]  # the bar comes first
    columns = min(3 if max(map(len, names)) <= 36 else 2, len(names))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(_title(found), fontsize=13, fontweight="bold")
    with durable.publish_file(path) as handle:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        handle.write(buffer.getvalue())
    return path


def shown(found: Comparison) -> list[Row]:
    """Select the rows to draw, in the table's order: the forest's and the best of the others.

    The reference is left out: it is the line at 1.
    """
    reference = (found.reference, found.reference_kind)
    rows = [row for row in found.rows[1:] if (row.model, row.kind) != reference]
    fixed = [row for row in rows if row.kind in ("top-1", SEED)]
    others = sorted((row for row in rows if row not in fixed), key=_order)[: _MOST - len(fixed)]
    return [row for row in found.rows if row is found.rows[0] or row in fixed or row in others]


def _order(row: Row) -> float:
    scope = row.in_domain or row.novel
    return math.inf if scope is None else scope.ratio


def _lines(found: Comparison, rows: Sequence[Row], *, novel: bool) -> list[_Line]:
    """Make the lines of one group: the mean, then the domains, the ensemble's best first."""
    domains = found.domains(novel=novel)
    if not domains:
        return []
    reference = next(row for row in found.rows if row.model == found.reference)

    def ratio(row: Row, domain: str) -> float:
        return math.exp(row.nats_per_token[domain] - reference.nats_per_token[domain])

    def mean(row: Row) -> float:
        scope: Scope | None = row.novel if novel else row.in_domain
        assert scope is not None
        return scope.ratio

    lines = [_Line(domain, [ratio(row, domain) for row in rows]) for domain in domains]
    lines.sort(key=lambda line: line.ratios[0])
    if len(lines) == 1:
        return lines
    return [_Line(f"mean of {len(domains)}", [mean(row) for row in rows], is_mean=True), *lines]


def _draw_group(axes: "Axes", lines: Sequence[_Line], rows: Sequence[Row]) -> None:
    """Draw a bar from 1 to the ensemble's ratio on each line, and a mark for each other row."""
    for height, line in enumerate(lines):
        value = line.ratios[0]
        colour = _BETTER if value < 1 else _WORSE
        alpha = 1.0 if line.is_mean else 0.55
        axes.barh(height, value - 1, left=1, height=0.62, color=colour, alpha=alpha)
        axes.text(
            1.01,
            height,
            f"{value:.2f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=colour,
            fontweight="bold" if line.is_mean else "normal",
        )
    axes.barh([0], [0], left=1, color=_BETTER, label=_said(rows[0], rows[0]))
    mark = iter(zip(_MARKS, _COLOURS, strict=True))
    for number, row in enumerate(rows[1:], 1):
        style = {"top-1": ("o", "black"), SEED: ("^", "#718096")}.get(row.kind) or next(mark)
        points = [line.ratios[number] for line in lines]
        filled = "none" if row.kind == "top-1" else style[1]
        axes.scatter(
            points,
            range(len(lines)),
            marker=style[0],
            s=42,
            facecolors=filled,
            edgecolors=style[1],
            label=_said(row, rows[0]),
            zorder=3,
        )
    axes.axvline(1.0, color="black", linewidth=1.4, zorder=2)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=9)
    if lines[0].is_mean:
        axes.axhline(0.5, color="#a0aec0", linewidth=0.8)
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _said(row: Row, forest: Row) -> str:
    """Word a row for the legend, with its share of the forest's training tokens unless equal."""
    said = {
        "ensemble": f"forest: {row.model}, {row.experts_run} run for a token",
        "top-1": "forest: one expert (top-1)",
        "commit": f"forest: {row.model} tokens, {row.experts_run:.3g} run for a token",
        "average": f"average: {short(row.model)}",
        SEED: short(row.model),
    }.get(row.kind, short(row.model))
    if row.compute_matched:
        return said
    if row.compute_matched is None or not forest.training_tokens:
        return f"{said} (training not known)"
    return f"{said} ({(row.training_tokens or 0) / forest.training_tokens:.2g} × the tokens)"


def _name_the_line(axes: "Axes", found: Comparison) -> None:
    """Write the reference's name above the line at 1, and which side of it is better."""
    what = "the dense model" if found.dense else short(found.reference)
    said = f"◂ better   {what}   worse ▸"
    at_value = axes.get_xaxis_transform()
    axes.text(1.0, 1.01, said, ha="center", va="bottom", fontsize=9, transform=at_value)
    axes.text(1.01, 1.01, "forest", va="bottom", fontsize=9, transform=axes.transAxes)


def _scale(parts: Sequence["Axes"], groups: Sequence[Sequence[_Line]]) -> None:
    """Give all parts one logarithmic axis with round ticks."""
    values = [ratio for lines in groups for line in lines for ratio in line.ratios] + [1.0]
    low, high = min(0.9, *values) / 1.12, max(1.1, *values) * 1.12
    steps = _FINE if high / low < 2 else _COARSE
    ticks = [tick for tick in steps if low <= tick <= high]
    for axes in parts:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _axis_label(found: Comparison) -> str:
    what = "the dense model's" if found.dense else f"that of {short(found.reference)}"
    return f"perplexity divided by {what}: left of the line is better"


def _title(found: Comparison) -> str:
    """Word the picture's message in one line."""
    reference = next(row for row in found.rows if row.model == found.reference)
    if not found.dense:
        return (
            f"Forest against {short(found.reference)} (no dense model beside it): lower is better"
        )
    equal = "equal training tokens" if reference.compute_matched else "UNEQUAL training tokens"
    return f"Forest against one dense model, {equal}: lower is better"
