"""The audit log: one JSON line an event, each with the sha256 of the line before it.

A line that is edited, added, left out or moved breaks the chain at its number. A log that was cut
at its end is whole in itself: so its head (lines, sha256 of the last) is kept beside it, and may
be signed and published.
"""

from dataclasses import dataclass
from pathlib import Path

from btm.system.json_files import Json

BEGINNING = "0" * 64  # the `previous` of the first line


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

    Safe against a crash at any instruction and against other processes that append. A torn last
    line, which a crash left and nobody was told of, is cut off first. Raises `UserError` if the
    log does not end as its head says.
    """
    raise NotImplementedError


def verify(file: Path, head: Head | None = None) -> list[Entry]:
    """Read a log and check its chain; return its events.

    `head` is one that is known from elsewhere; by default that of ``<file>.head``. Raises
    `UserError`, naming the line, where the log was edited, cut, or does not reach the head.
    """
    raise NotImplementedError
