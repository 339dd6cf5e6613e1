"""The table of memory: forest and dense LM, each with an n-gram cache and without.

A rule that carries what it read of a document remembers more than the dense LM's context. The
simplest thing that does is an n-gram cache (btm/ensemble/cache.py), and it serves a dense LM as
well as a forest. So both are set against both, within the window and carried within documents.
"""

from dataclasses import dataclass

import pandas as pd

from btm.paper.bootstrap import Nats, ratios
from btm.paper.losses import CACHE, CARRIED, DENSE, DOCUMENT, GATED, WINDOW

_SCOPES = ("in-domain", "novel")


@dataclass(frozen=True)
class Compared:
    """One cell of the table: a row of some memory over the dense LM, with a cache or without."""

    row: str
    memory: str
    over: str


def cells(rows: list[str]) -> list[Compared]:
    """List what is compared of the `rows` that were measured, by memory.

    A row is divided by the dense LM, and by the dense LM with a cache of the same memory.
    """
    found = []
    for memory, suffix in ((WINDOW, ""), (DOCUMENT, CARRIED)):
        cached = f"{DENSE}{CACHE}{suffix}"
        # A dense LM without a cache has nothing to carry.
        names = [DENSE, cached, f"{GATED}{suffix}", f"{GATED}{CACHE}{suffix}"]
        for row in names if memory == WINDOW else names[1:]:
            for over in (DENSE, cached):
                if {row, over} <= set(rows):
                    found.append(Compared(row, memory, over))
    return found


def compare(found: Nats, resamples: int) -> pd.DataFrame:
    """Make a record {memory, over, row, scope, ratio, low, high, …} of each cell and scope."""
    wanted = cells(found.rows)
    parts = []
    for over in dict.fromkeys(cell.over for cell in wanted):
        table = ratios(found, over, resamples)
        for cell in wanted:
            if cell.over == over:
                part = table[(table["row"] == cell.row) & table["scope"].isin(_SCOPES)]
                parts.append(part.assign(memory=cell.memory, over=over))
    if not parts:
        return pd.DataFrame(columns=["memory", "over", "row", "scope", "ratio", "low", "high"])
    every = pd.concat(parts, ignore_index=True)
    return every[["memory", "over", *every.columns.drop(["memory", "over"])]]
