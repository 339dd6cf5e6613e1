"""SHA256SUMS: one line for every file of a folder, as ``sha256sum -c SHA256SUMS`` reads it.

It shows every changed byte and every truncated, missing or new file, and damage to the list itself
too, since the list has exactly one valid form.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from btm.errors import UserError
from btm.system import durable
from btm.system.json_files import Json

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n\r\0]+)")


def names(folder: Path) -> list[str]:
    """List every file below `folder` but SHA256SUMS and scratch, as sorted relative paths."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(
        p.as_posix() for p in found if p.as_posix() != NAME and not p.name.startswith(".tmp-")
    )


def write(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write SHA256SUMS for all files in `folder`; the sums `known` ({file: sha256}) are reused."""
    digests = {
        name: (known or {}).get(name) or file_sha256(folder / name) for name in names(folder)
    }
    with durable.publish_file(folder / NAME) as handle:
        handle.write(_text(digests).encode())


def read(folder: Path) -> dict[str, str]:
    """Read SHA256SUMS as {file: sha256}; `UserError` if one byte of its form is wrong."""
    file = folder / NAME
    try:
        text = file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable: {error}") from None
    found = [_LINE.fullmatch(line) for line in text.split("\n")[:-1]]
    digests = {match[2]: match[1] for match in found if match}
    if not digests or _text(digests) != text:
        raise UserError(f"{file}: not a list of sha256 sums, one a file, sorted by name")
    for name in digests:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{file}: {name!r} leads out of the folder")
    return digests


def differences(
    folder: Path,
    wanted: Callable[[Path], bool] = lambda path: True,
    told: Callable[[int], None] = lambda read: None,
) -> dict[str, str]:
    """Compare a folder with its SHA256SUMS and return {file: fault} for every file that differs.

    Faults are files that are missing, new or, among those that `wanted` accepts, of another sha256.
    `told` is called after each file with the number of its bytes. Raises `UserError` if SHA256SUMS
    itself is damaged.
    """
    listed, present = read(folder), set(names(folder))
    wrong = dict.fromkeys(listed.keys() - present, "missing")
    wrong |= dict.fromkeys(present - listed.keys(), f"not listed in {NAME}")
    for name in sorted(listed.keys() & present):
        path = folder / name
        if not wanted(path):
            continue
        try:
            if file_sha256(path) != listed[name]:
                wrong[name] = "its sha256 is another: bytes changed"
            told(path.stat().st_size)
        except OSError as error:
            wrong[name] = f"not readable: {error.strerror}"
    return wrong


def checked(values: Mapping[str, object]) -> Json:
    """Add `check`, the sha256 of all other values, to a JSON object that no SHA256SUMS lists."""
    rest = {key: value for key, value in values.items() if key != "check"}
    return rest | {"check": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def _text(digests: Mapping[str, str]) -> str:
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
