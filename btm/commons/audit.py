"""The audit log: one JSON line an event, each with the sha256 of the line before it.

A line that is edited, added, left out or moved breaks the chain at its number. A log that was cut
at its end is whole in itself: so its head (lines, sha256 of the last) is kept beside it, and may
be signed and published.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from btm.errors import UserError
from btm.system import durable
from btm.system.json_files import Json, parse_json, read_object

BEGINNING = "0" * 64  # the `previous` of the first line
_KEYS = {"line": int, "time": str, "event": str, "facts": dict, "previous": str}


@dataclass(frozen=True)
class Head:
    """The end of a log: its number of lines and the sha256 of the last one."""

    lines: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One event: its line number from 1, the time (UTC, ISO 8601), the kind and its facts."""

    line: int
    time: str
    event: str
    facts: Json


def append(file: Path, event: str, facts: Json) -> Head:
    """Append an event durably and return the new head, which also stands in ``<file>.head``.

    Safe against a crash at any instruction and against other processes of this machine that
    append. A torn last line, which a crash left and nobody was told of, is cut off first. Raises
    `UserError` if the log is not what its head says.
    """
    durable.make_folder(file.parent)
    with _locked(file):
        lines = _whole_lines(file)
        _check(file, lines, _known_head(file))
        values = {
            "line": len(lines) + 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
            "facts": facts,
            "previous": _sha256(lines[-1]) if lines else BEGINNING,
        }
        line = json.dumps(values, sort_keys=True, allow_nan=False)
        durable.append_line(file, line)
        _sync(file)
        head = Head(len(lines) + 1, _sha256(line.encode()))
        # Only now: a crash before this leaves a head that the longer log still reaches.
        durable.write_json(_head_file(file), asdict(head))
    return head


def verify(file: Path, head: Head | None = None) -> list[Entry]:
    """Read a log and check its chain; return its events.

    `head` is one that is known from elsewhere; by default that of ``<file>.head``. Raises
    `UserError`, naming the line, where the log was edited, cut, or does not reach the head.
    """
    return _check(file, _whole_lines(file), head or _known_head(file))


def _check(file: Path, lines: list[bytes], head: Head | None) -> list[Entry]:
    """Follow the chain through `lines`; `UserError` at the first that breaks it."""
    entries, previous = [], BEGINNING
    for number, line in enumerate(lines, 1):
        values = _parsed(file, number, line)
        if values["line"] != number:
            raise UserError(
                f"{file}:{number}: says that it is line {values['line']}: "
                "lines were cut out, added or moved"
            )
        if values["previous"] != previous:
            before = f"line {number - 1}" if number > 1 else "a beginning"
            raise UserError(f"{file}:{number}: does not follow {before}: one of the two was edited")
        previous = _sha256(line)
        if head is not None and number == head.lines and previous != head.sha256:
            raise UserError(f"{file}:{number}: is not the line of its head: edited")
        entries.append(Entry(number, values["time"], values["event"], values["facts"]))
    if head is not None and len(lines) < head.lines:
        raise UserError(
            f"{file}:{len(lines) + 1}: missing: the log was cut, its head says {head.lines} lines"
        )
    return entries


def _parsed(file: Path, number: int, line: bytes) -> Json:
    """Parse one line; `UserError` unless it has the keys of an event and no others."""
    try:
        values = parse_json(line, unique=True)
    except ValueError as error:
        raise UserError(f"{file}:{number}: no JSON ({error}): edited") from None
    if not isinstance(values, dict) or values.keys() != _KEYS.keys():
        raise UserError(f"{file}:{number}: no event of this log: edited")
    for key, kind in _KEYS.items():
        if type(values[key]) is not kind:
            raise UserError(f"{file}:{number}: its {key} is no {kind.__name__}: edited")
    return values


def _whole_lines(file: Path) -> list[bytes]:
    """Read the lines that end; what follows the last newline was never acknowledged."""
    content = file.read_bytes() if file.exists() else b""
    return content.split(b"\n")[:-1]


def _head_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.head")


def _known_head(file: Path) -> Head | None:
    """Read the head beside the log; None before its first event, `UserError` if only it is gone."""
    place = _head_file(file)
    if place.exists():
        values = read_object(place, lines=int, sha256=str)
        return Head(values["lines"], values["sha256"])
    if len(_whole_lines(file)) > 1:  # one line may have been written just before a crash
        raise UserError(f"{place}: missing, and {file} has events: restore it from a copy")
    return None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of the log, which ends with the process."""
    with file.with_name(f"{file.name}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sync(file: Path) -> None:
    with file.open("rb") as handle, durable.naming(file):
        os.fsync(handle.fileno())
    durable.sync_folder(file.parent)


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
