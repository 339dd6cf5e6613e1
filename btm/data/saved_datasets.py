"""Folders that `datasets.save_to_disk` has written: which of their .arrow files hold the rows.

<folder>/state.json lists data-00000-of-00002.arrow and so on; beside them may lie caches of rows
that were mapped or filtered. Splits are folders below, train/ and test/.
"""

import json
from pathlib import Path

from btm.errors import UserError

CACHE = "cache-*.arrow"
_STATE = "state.json"


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
