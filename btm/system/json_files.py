"""JSON files from outside, read with a limit on their size and checked for what they must hold."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from btm.errors import UserError
from btm.system import lfs

Json = dict[str, Any]  # a JSON object as it stands in a file
MAX_JSON = 64 << 20  # bytes of a JSON file that is not a tokenizer


def read_regular(file: Path, most: int = MAX_JSON) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises `OSError` if there is none, and `UserError` for a git-LFS pointer, or for a device, a
    pipe or a socket: reading one may never end.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"{file}: wanted a regular file")
        content = stream.read(most + 1)
    if len(content) > most:
        raise UserError(f"{file}: larger than {most:,} bytes")
    lfs.refuse_content(file, content)
    return content


def parse_json(content: bytes, *, unique: bool = False) -> Any:
    """Parse a JSON text.

    Raises `ValueError` if it is not JSON, nests too deep or, with `unique`, repeats a key.
    """
    try:
        value = json.loads(content, object_pairs_hook=_once if unique else None)
        if rb"\ud" in content or rb"\uD" in content:
            # Half of a surrogate pair can be neither printed nor written: it fails here, early.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise ValueError("nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> Json:
    values: Json = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} stands there twice")
        values[key] = value
    return values


def read_object(file: Path, **wanted: type) -> Json:
    """Read the JSON object in `file`; `UserError` unless it has the `wanted` keys and types."""
    try:
        value = parse_json(read_regular(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: wanted a JSON object")
    for key, kind in wanted.items():
        if not isinstance(value.get(key), kind) or (kind is int and isinstance(value[key], bool)):
            raise UserError(
                f"{file}: no {key} that is a {kind.__name__}: damaged, restore it from a copy"
            )
    return value
