"""JSON lines: files of one JSON object a line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from btm.system.json_files import Json


def read(path: Path) -> list[Json]:
    """Read the objects of a file.

    Raises:
        OSError: it is not there
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects into a file, whose folder is made if need be."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
