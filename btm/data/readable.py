"""Whether a file is read: told by its name, and where that does not say it, by how it begins."""

import json
from functools import lru_cache
from pathlib import Path

from btm.config.data import DataConfig
from btm.data.columns import header_of
from btm.data.folders import why_unread
from btm.data.formats import JSON, TABLE, format_of
from btm.data.passed_over import NO_FILE, NOWHERE
from btm.data.streams import DAMAGED, open_bytes

_SMALL = 1 << 20  # bytes of a .json file that is looked into


def why_not_read(path: Path, config: DataConfig) -> str:
    """Tell why a file is not read; empty if it is."""
    if not path.is_file():
        return NOWHERE if path.is_symlink() else NO_FILE
    form = format_of(path, config.text_endings)
    if form is None:
        return why_unread(path)
    if form not in (TABLE, JSON) or config.format == "prompted":
        return ""
    status = path.stat()
    return _why_no_records(path, config.text_column, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _why_no_records(path: Path, column: str, size: int, changed: int) -> str:
    """Tell why a table or a small .json file holds no text: it has no such column, or is one object
    without it. Empty for whatever may hold text, and for what is broken, which its reader names.

    `size` and the time at which it `changed` are those of the file, for the cache.
    """
    outer = column.partition(".")[0]
    try:
        if format_of(path) == TABLE:
            header = header_of(path)
            return "" if {column, outer} & {*header} else f"tables without {column!r}"
        with open_bytes(path) as handle:
            data = handle.read(_SMALL + 1) if size <= _SMALL else b""
        value = json.loads(data.decode("utf-8-sig")) if 0 < len(data) <= _SMALL else None
    except (*DAMAGED, OSError, ValueError, RecursionError):
        return ""
    is_other = isinstance(value, dict) and not {column, outer} & value.keys()
    return f".json without {column!r}" if is_other else ""
