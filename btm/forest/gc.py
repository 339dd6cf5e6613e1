"""Garbage collection: find and delete what nothing needs any more.

That is never an ELM, an average, an evaluation, or a branch that can become an ELM.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from btm.errors import UserError
from btm.forest import index, removal, tombstone, trained_on, unwritten
from btm.forest.forest import Forest
from btm.forest.paths import READERS, ReaderFolder, digits_of, weights_of
from btm.models import weights
from btm.system import durable, lease
from btm.system.json_files import read_object


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int  # bytes


def find(forest: Forest) -> list[Waste]:
    """Find what can be deleted, largest first.

    While a process works on a branch, scores, Fisher information and predictions of all weights
    stay.
    """
    found = [*_temporaries(forest), *_branches(forest), *_bins(forest), *_caches()]
    why = "digests of text that no model was trained on"
    found += [_waste(file, why) for file in trained_on.not_needed(forest)]
    if not any(lease.held(forest.paths.branch(made.name)) for made in forest.branches()):
        found += _derived(forest)
    return sorted(found, key=lambda waste: (-waste.size, waste.path))


def collect(forest: Forest) -> list[Waste]:
    """Delete everything that `find` finds, and return it."""
    found = find(forest)
    for waste in found:
        if waste.path.parent == forest.paths.branches:
            if not lease.held(forest.paths.branch(lease.name_of(waste.path))):
                with suppress(FileNotFoundError):
                    durable.remove_folder(waste.path)
        elif waste.path.is_dir():
            removal.empty(waste.path)
        else:
            waste.path.unlink(missing_ok=True)
    for folder in forest.paths.scores.glob("*"):
        with suppress(OSError):  # it holds scores
            folder.rmdir()
    return found


def _temporaries(forest: Forest) -> list[Waste]:
    left = (path for place in forest.paths.places() for path in durable.orphans(place))
    return [_waste(path, "left by a process that died") for path in left]


def _branches(forest: Forest) -> list[Waste]:
    found = []
    gone = tombstone.names(forest.root)
    for made in forest.branches():
        if lease.held(forest.paths.branch(made.name)):
            continue
        if made.name in gone:
            found.append(_waste(made.path, "a branch of an ELM that was removed"))
        elif made.name in forest:
            found.append(_waste(made.path, "a branch whose ELM stands"))
    return found


def _bins(forest: Forest) -> list[Waste]:
    return [_waste(path, "of a removal that was not finished") for path in forest.paths.bins()]


def _derived(forest: Forest) -> list[Waste]:
    """Find scores, Fisher information and predictions of weights that no model has."""
    kept = {entry.sha256 for entry in index.entries(forest.root)}
    for made in forest.branches():
        with suppress(UserError, OSError):
            kept.add(weights.sha256(made.path))
    found = [
        _waste(file, "scores of weights that are gone")
        for file in forest.paths.scores_of()
        if weights_of(file) not in kept
    ]
    gone = [
        path
        for path in forest.paths.fishers_of()
        if not any(sha256.startswith(digits_of(path)) for sha256 in kept)
    ]
    found += [
        _waste(file, "of an average that was measured and not kept")
        for file in unwritten.notes(forest.root)
    ]
    found += [_waste(path, "Fisher information of weights that are gone") for path in gone]
    found += _readers(forest, kept)
    stale = removal.targets_without(forest.root, kept)
    return found + [_waste(path, "predictions of weights that are gone") for path in stale]


def _readers(forest: Forest, kept: set[str]) -> list[Waste]:
    """Find readers that are half trained and stand on weights, not of `kept`, that are gone."""
    found = []
    for home in forest.paths.in_making(READERS):
        current = lease.find(home)
        if current is None or lease.held(home):
            continue
        with suppress(UserError, OSError):
            models = read_object(ReaderFolder(current).making, models=dict)["models"]
            if not kept.issuperset(models.values()):
                found.append(_waste(current, "a half-trained reader on weights that are gone"))
    return found


def _caches() -> list[Waste]:
    """Find the caches of forests that are gone, and those that cannot be read."""
    found: list[Waste] = []
    try:
        place = index.folder()
    except OSError:  # a user without a home
        return found
    for file in place.glob("*.sqlite"):
        root = index.forest_of(file)
        if root is None:
            found.append(_waste(file, "an index that cannot be read"))
        elif not Forest.stands(root):
            found.append(_waste(file, f"the index of a forest that is gone: {root}"))
    return found


def _waste(path: Path, why: str) -> Waste:
    size = path.lstat().st_size if not path.is_dir() else 0
    for place, _, files in os.walk(path):
        with suppress(FileNotFoundError):
            size += sum(os.lstat(Path(place) / name).st_size for name in files)
    return Waste(path, why, size)
