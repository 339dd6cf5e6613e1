"""The figures of a reproduction, drawn with matplotlib."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from btm.report import pictures
from btm.system import durable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"in-domain": "#2b6cb0", "novel": "#dd6b20"}


def draw(
    folder: Path, compared: pd.DataFrame, varied: pd.DataFrame, domains: pd.DataFrame
) -> list[str]:
    """Draw every figure into `folder` and return the names of the files that could be made."""
    wanted: dict[str, Callable[[], Figure]] = {
        "ratios.png": lambda: _ratios(compared),
        "domains.png": lambda: _domains(domains),
    }
    for name, part in varied.groupby("ablation", sort=False):
        file = f"{str(name).replace(' ', '-')}.png"
        wanted[file] = partial(_ablation, str(name), part)

    def write(name: str) -> None:
        buffer = io.BytesIO()
        wanted[name]().savefig(buffer, format="png")
        with durable.publish_file(folder / name) as handle:
            handle.write(buffer.getvalue())

    return [name for name in wanted if pictures.attempt(partial(write, name), folder / name)]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _ratios(compared: pd.DataFrame) -> "Figure":
    """Plot every row's ratio to the dense LM with its interval, in-domain and novel."""
    rows = list(dict.fromkeys(compared["row"]))
    order = compared[compared["scope"] == "in-domain"].set_index("row")["ratio"]
    rows.sort(key=lambda row: -float(order[row]))
    figure = _figure(8.5, 1.2 + 0.34 * len(rows))
    axes = figure.add_subplot()
    for shift, (scope, colour) in zip((0.16, -0.16), _COLOURS.items(), strict=True):
        part = compared[compared["scope"] == scope].set_index("row").reindex(rows)
        if part["ratio"].isna().all():
            continue
        errors = np.array([part["ratio"] - part["low"], part["high"] - part["ratio"]], float)
        errors = np.nan_to_num(np.maximum(0, errors))  # some have no interval
        heights = np.arange(len(rows)) + shift
        axes.errorbar(part["ratio"], heights, xerr=errors, fmt="o", ms=4, color=colour, label=scope)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("perplexity over the dense LM's (95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure


def _ablation(name: str, part: pd.DataFrame) -> "Figure":
    """Plot the ratios over the values of one ablation, a line for each row and scope."""
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
    values = list(dict.fromkeys(part["value"]))
    for dash, (row, rows) in zip(("-", "--", ":"), part.groupby("row", sort=False), strict=False):
        for scope, line in rows.groupby("scope", sort=False):
            places = [values.index(value) for value in line["value"]]
            axes.plot(
                places,
                line["ratio"],
                f"o{dash}",
                color=_COLOURS[str(scope)],
                label=f"{row}, {scope}",
            )
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks(range(len(values)), values)
    axes.set_xlabel(name)
    axes.set_ylabel("perplexity over the dense LM's")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def _domains(domains: pd.DataFrame) -> "Figure":
    """Plot every row on every domain: log2 of its perplexity over the dense LM's.

    It is the mean over seeds.
    """
    nats = domains.assign(mean=domains["nats"] / domains["tokens"])
    table = nats.pivot_table(
        index="row", columns="domain", values="mean", aggfunc="mean", sort=False
    )
    relative = (table - table.loc["dense"]) / np.log(2)
    novel = domains.drop_duplicates("domain").set_index("domain")["novel"]
    columns = sorted(relative.columns, key=lambda domain: (bool(novel[domain]), domain))
    figure = _figure(3.6 + 0.55 * len(columns), 1.8 + 0.3 * len(relative))
    axes = figure.add_subplot()
    image = axes.imshow(relative[columns], cmap="RdYlGn_r", vmin=-0.5, vmax=0.5, aspect="auto")
    axes.set_xticks(
        range(len(columns)),
        [f"{domain}{' (novel)' if novel[domain] else ''}" for domain in columns],
        rotation=60,
        ha="right",
    )
    axes.set_yticks(range(len(relative)), list(relative.index))
    for y, row in enumerate(relative.index):
        for x, domain in enumerate(columns):
            axes.text(
                x, y, f"{2 ** relative.loc[row, domain]:.2f}", ha="center", va="center", fontsize=6
            )
    axes.set_title("Perplexity over the dense LM's, by domain")
    figure.colorbar(image, ax=axes, label="log2 ratio")
    return figure
