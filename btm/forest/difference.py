"""The file that makes an expert again from its parents, bit for bit: a sparse expert's delta, or an
adapter.
"""

from pathlib import Path

from btm.forest import adapter, delta
from btm.forest.adapter import Adapter
from btm.forest.delta import Delta

FILES = (delta.FILE, adapter.FILE)  # an expert has one of them, or none

Difference = Delta | Adapter


def file_in(folder: Path) -> Path | None:
    """Find the file in a folder; None if there is none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read(file: Path) -> Difference:
    """Read the difference in `file`; `UserError` if it is damaged, or from a newer btm."""
    return adapter.read(file) if file.name == adapter.FILE else delta.read(file)


def apply(made: Difference, folder: Path) -> None:
    """Add a difference to the weights in an unpublished `folder`, the average of its parents.

    Raises `UserError` if it does not fit these, or if the result has another sha256.
    """
    if isinstance(made, Adapter):
        adapter.apply(made, folder)
    else:
        delta.apply(made, folder)
