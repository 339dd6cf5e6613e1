"""What nothing needs any more: never an ELM, an average, an evaluation, or a branch that can become
an ELM.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from btm.errors import UserError
from btm.forest import index, paths, removal, tombstone
from btm.forest.forest import Forest
from btm.models import weights
from btm.system import durable, lease


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int  # bytes


def find(forest: Forest) -> list[Waste]:
    """Return what can go, largest first; what was computed of weights stays while a process works
    on a branch.
    """
    found = [*_temporaries(forest), *_branches(forest), *_bins(forest), *_caches()]
    if not any(lease.held(forest.root / "branches" / made.name) for made in forest.branches()):
        found += _derived(forest)
    return sorted(found, key=lambda waste: (-waste.size, waste.path))


def collect(forest: Forest) -> list[Waste]:
    """Delete what can go; return it."""
    found = find(forest)
    for waste in found:
        if waste.path.parent == forest.root / "branches":
            if not lease.held(forest.root / "branches" / lease.name_of(waste.path)):
                with suppress(FileNotFoundError):
                    durable.remove_folder(waste.path)
        elif waste.path.is_dir():
            removal.empty(waste.path)
        else:
            waste.path.unlink(missing_ok=True)
    for folder in (forest.root / "scores").glob("*"):
        with suppress(OSError):  # it holds scores
            folder.rmdir()
    return found


def _temporaries(forest: Forest) -> list[Waste]:
    folders = [forest.root, *(path for path in forest.root.glob("*") if path.is_dir())]
    folders += [
        path for path in forest.root.glob("*/*") if path.is_dir() and not path.name.startswith(".")
    ]
    return [
        _waste(path, "left by a process that died") for f in folders for path in durable.orphans(f)
    ]


def _branches(forest: Forest) -> list[Waste]:
    found = []
    gone = tombstone.names(forest.root)
    for made in forest.branches():
        if lease.held(forest.root / "branches" / made.name):
            continue
        if made.name in gone:
            found.append(_waste(made.path, "a branch of an ELM that was removed"))
        elif made.name in forest:
            found.append(_waste(made.path, "a branch whose ELM stands"))
    return found


def _bins(forest: Forest) -> list[Waste]:
    bins = [path for path in (forest.root / "removed").glob(f"*/{removal.BIN}") if path.is_dir()]
    return [_waste(path, "of a removal that was not finished") for path in bins]


def _derived(forest: Forest) -> list[Waste]:
    """Return the scores and the Fisher information of weights that no model of the forest has."""
    kept = {entry.sha256 for entry in index.entries(forest.root)}
    for made in forest.branches():
        with suppress(UserError, OSError):
            kept.add(weights.sha256(made.path))
    files = (forest.root / "scores").glob("*/*.npy")
    found = [
        _waste(file, "scores of weights that are gone") for file in files if file.stem not in kept
    ]
    informed = [
        path for path in (forest.root / "fisher").glob("*") if not path.name.startswith(".")
    ]
    gone = [p for p in informed if not any(sha.startswith(paths.weights_of(p)) for sha in kept)]
    return found + [_waste(path, "Fisher information of weights that are gone") for path in gone]


def _caches() -> list[Waste]:
    """Return the caches of forests that are gone, and those that cannot be read."""
    found = []
    for file in index.folder().glob("*.sqlite"):
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
