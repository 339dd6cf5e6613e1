"""The weights that a branch begins with: those of its parents, averaged, and their sha256."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from btm.commons.bodies import Share
from btm.errors import UserError
from btm.forest import EXACT, Forest
from btm.models import average as averaging
from btm.models import causal_lm, weights
from btm.system import durable


@contextmanager
def base_of(
    forest: Forest, parents: Mapping[str, float], alive: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield a model folder with the weights that a branch of these parents begins with, as
    `Forest.branch` makes them.
    """
    if len(parents) == 1:
        yield forest[next(iter(parents))].path
        return
    scratch = durable.scratch_folder(forest.root)
    try:
        folder = scratch / "base"
        folder.mkdir()
        shares = averaging.normalise(parents)
        averaging.average({forest[p].path: w for p, w in shares.items()}, folder, alive, EXACT)
        causal_lm.copy_files(forest[next(iter(shares))].path, folder)
        yield folder
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def shares_of(forest: Forest, parents: Mapping[str, float]) -> dict[str, Share]:
    """Return the weights of parents and the sha256 of each, as an object says them."""
    shares = averaging.normalise(parents)
    return {name: Share(share, forest[name].card.sha256) for name, share in shares.items()}


def require_base(folder: Path, sha256: str, what: str) -> None:
    """Raise `UserError` unless a folder holds the weights that a branch is to begin with."""
    if (found := weights.sha256(folder)) != sha256:
        raise UserError(
            f"{what}: its branch begins with the weights {found[:12]} here, and {sha256[:12]} is "
            "wanted: its parents here are not those of the commons"
        )


def weights_of(parents: Mapping[str, Share]) -> dict[str, float]:
    """Return the weights of parents by name."""
    return {name: share.weight for name, share in parents.items()}
