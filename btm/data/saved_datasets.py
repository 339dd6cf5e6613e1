"""Folders that `datasets.save_to_disk` has written: which of their .arrow files hold the rows.

<folder>/state.json lists data-00000-of-00002.arrow and so on; beside them may lie caches of rows
that were mapped or filtered. Splits are folders below, train/ and test/.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from btm.errors import UserError

CACHE = "cache-*.arrow"
_STATE = "state.json"
_SPLITS = "dataset_dict.json"


def require_all_whole(paths: Iterable[Path]) -> None:
    """Raise `UserError` if one of the saved data sets that `paths` are of lacks files or a split.

    `paths` are files that are read, and those about them.
    """
    for folder in sorted({path.parent for path in paths}):
        require_whole(folder)
        _require_splits(folder)


def _require_splits(folder: Path) -> None:
    """Raise `UserError` if a saved data set of several splits lacks the folder of one."""
    path = folder / _SPLITS
    try:
        splits = [str(name) for name in json.loads(path.read_bytes())["splits"]]
    except (OSError, ValueError, KeyError, TypeError):
        return  # it is none, or of somebody else
    for name in splits:
        if not (folder / name).is_dir():
            raise UserError(
                f"{folder}: no {name}/, which {_SPLITS} lists; copy the whole folder again"
            )


def require_whole(folder: Path) -> None:
    """Raise `UserError` if a saved data set lacks files, or is of another selection of its rows."""
    path = folder / _STATE
    if not path.is_file():
        return
    try:
        state = json.loads(path.read_bytes())
        names = [str(each["filename"]) for each in state["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return  # of somebody else
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"{path}: rows are chosen by indices that stand apart, as old versions of datasets "
            "saved them; save it again with a present one"
        )
    for name in names:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: no {name}, which {_STATE} lists; copy the whole folder again"
            )
