"""The splitting of a pool: which documents are held out of a domain without splits of its own.

A domain that names some of its splits lacks the others; they are drawn from its train alike.

Units are dealt, never parts of one: a unit is a record of JSON or parquet, or a whole text file,
whose pieces are near one another. In the order of their hashes units go to test, then to valid, as
far as they fit, and the rest is for training; so the splits follow from the text alone. A domain
that is one text file has a single unit. It is split within: its end is test, what stands before
that is valid.

Where text was added to a pool that is prepared already, each document keeps its split, and only new
ones are dealt: what an ELM was trained on is never held out later. So the same text prepared at
once may be split otherwise. Other fractions split everything again.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data.documents import BY_PLACE, Source
from btm.errors import UserError

Digests = Mapping[str, np.ndarray]  # of documents, uint64, by split
NOTHING: Digests = MappingProxyType({})


def assign(
    source: Source,
    digest_D: np.ndarray,
    key_D: np.ndarray,
    config: DataConfig,
    before: Digests = NOTHING,
) -> np.ndarray:
    """Assign each document of a pool to train or a split of `source.drawn`.

    Documents of the same key, uint64, are one unit; one with a document that stood in a split
    `before` stays there. Returns the index in `SPLITS`, uint8 (D,). Raises `UserError` if there are
    too few.
    """
    if source.split_by == BY_PLACE:
        key_D = np.arange(len(digest_D), dtype=np.uint64)[::-1]
    keys_U, unit_D = np.unique(key_D, return_inverse=True)
    sizes_U = _sizes(digest_D, unit_D, len(keys_U))
    n = int(sizes_U.sum())
    fractions = {"test": config.test_fraction, "valid": config.valid_fraction}
    held_out = {
        split: max(1, round(fraction * n))
        for split, fraction in fractions.items()
        if split in source.drawn
    }
    if sum(held_out.values()) >= n or len(keys_U) <= len(held_out):
        raise _too_few(source, n, len(keys_U), held_out)
    split_U = np.full(len(keys_U), SPLITS.index("train"), np.uint8)
    free_U = np.ones(len(keys_U), bool)
    for split in ("train", "valid", "test"):  # of a unit that was cut otherwise, the last counts
        known_U = np.unique(unit_D[np.isin(digest_D, before.get(split, ()))])
        split_U[known_U], free_U[known_U] = SPLITS.index(split), False
    for left, (split, wanted) in zip((len(held_out), 1), held_out.items(), strict=False):
        has_U = split_U == SPLITS.index(split)
        missing = wanted - int(sizes_U[has_U].sum())
        if has_U.any() and not (free_U & (sizes_U <= missing)).any():
            continue
        taken = _take(sizes_U, free_U, missing, max(1, int(free_U.sum()) - left))
        split_U[taken] = SPLITS.index(split)
        free_U[taken] = False
    if len(np.unique(split_U)) <= len(held_out):  # of what stood, nothing of a split is left
        return assign(source, digest_D, key_D, config)
    return split_U[unit_D]


def _sizes(digest_D: np.ndarray, unit_D: np.ndarray, n_units: int) -> np.ndarray:
    """Count the distinct documents of each unit, so that copies of a file make it no larger."""
    order = np.lexsort((digest_D, unit_D))
    new = np.ones(len(order), bool)
    new[1:] = (digest_D[order[1:]] != digest_D[order[:-1]]) | (
        unit_D[order[1:]] != unit_D[order[:-1]]
    )
    return np.bincount(unit_D[order[new]], minlength=n_units)


def _take(sizes_U: np.ndarray, free_U: np.ndarray, wanted: int, most: int) -> list[int]:
    """Choose units in their order, each that fits into `wanted` documents, at most `most` units.

    If none fits, it is the smallest one.
    """
    taken: list[int] = []
    room = wanted
    for unit in np.flatnonzero(free_U & (sizes_U <= wanted)).tolist():
        if sizes_U[unit] <= room:
            taken.append(unit)
            room -= int(sizes_U[unit])
        if not room or len(taken) == most:
            return taken
    return taken or [int(np.where(free_U, sizes_U, sizes_U.max() + 1).argmin())]


def _too_few(source: Source, n: int, units: int, held_out: dict[str, int]) -> UserError:
    """Describe a pool that cannot be split."""
    # In the order of SPLITS, where test is drawn first.
    drawn = [split for split in SPLITS if split in held_out]
    splits = f"{', '.join(['train', *drawn[:-1]])} and {drawn[-1]}"
    own = "three splits of its own"
    if not source.pooled:
        own = f"a {' and a '.join(drawn)} split of its own"
    if units < min(n, 1 + len(drawn)):
        return UserError(
            f"{source.domain}: {units} different text files are too few for {splits}, "
            "which share none; add files, join them into one (it is split within), or give it "
            f"{own}"
        )
    sizes = " and ".join(str(held_out[split]) for split in drawn)
    return UserError(
        f"{source.domain}: {n} distinct documents are too few for {splits} "
        f"({sizes} would be held out); add text, or give it {own}"
    )
