"""Leases: the right to work in a folder, held by one process at a time.

The lease *is* the folder's name: to take ``law`` is to rename it ``law~<holder>``. So no two
processes can hold it, and a holder that was wrongly taken for dead is fenced off by the file system
itself: whatever it publishes goes to a path that is no longer there. A lock beside the folder could
only be checked and then acted upon, with room for a second writer in between, and somebody would
have to delete one that was left behind.

A holder shows that it lives by touching the folder (`Lease.beat`). Its lease passes to the next
process that asks, at once if the holder's process is gone (seen on the same machine only),
otherwise after `EXPIRY` seconds without a beat.
"""

import itertools
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from btm.errors import UserError
from btm.system import durable

MARK = durable.HELD  # cannot stand in the name of an ELM
EXPIRY = 600.0  # seconds without a beat after which a lease passes on
_TOUCH_EVERY = 1.0  # seconds, so that a beat costs nothing however often it is called
_count = itertools.count(1)


class HeldError(UserError):
    """Another process that is alive works in the folder."""


class LostError(UserError):
    """The lease has passed to another process; what this one publishes would go nowhere."""


@dataclass
class Lease:
    """A held folder: its path while it is held, and its path at rest."""

    path: Path  # where it is while it is held
    home: Path  # where it is at rest
    _beaten: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """Show that the holder lives, at any rate of calls; `LostError` once the lease is lost."""
        now = time.monotonic()
        if now - self._beaten < _TOUCH_EVERY:
            return
        self._beaten = now
        try:
            with durable.naming(self.path):
                os.utime(self.path)
        except FileNotFoundError:
            raise LostError(
                f"{self.home} was taken over by another process; this one stops"
            ) from None

    def release(self) -> None:
        """Put the folder back to rest, unless it was moved on (merged) or lost."""
        try:
            durable.rename_folder(self.path, self.home)
        except FileNotFoundError:
            return


def take(home: Path, expiry: float = EXPIRY) -> Lease:
    """Take the lease on the folder `home`.

    Raises `HeldError` while another process that lives holds it, and `FileNotFoundError` if there
    is no such folder.
    """
    mine = home.with_name(f"{home.name}{MARK}{durable.writer()}.{next(_count)}")
    while True:
        current = find(home)
        if current is None:
            raise FileNotFoundError(home)
        if current != home and not _abandoned(current, expiry):
            raise HeldError(f"{home} is at work in another process ({holder(current)})")
        try:
            with durable.naming(current):
                os.utime(current)  # a lease is born fresh, whatever the age of the folder
            durable.rename_folder(current, mine)
        except FileNotFoundError:
            continue  # another was faster; look again
        return Lease(mine, home)


def find(home: Path) -> Path | None:
    """Find the folder `home`, at rest or held; None if there is none."""
    prefix = home.name + MARK
    for _ in range(3):  # a rename between two looks can hide the folder from both
        if home.is_dir():
            return home
        try:
            with os.scandir(home.parent) as entries:  # there may be thousands
                held = next(
                    (entry.name for entry in entries if entry.name.startswith(prefix)), None
                )
        except FileNotFoundError:
            return None
        if held:
            return home.with_name(held)
    return None


def name_of(path: Path) -> str:
    """Return the name at rest of a folder that may be held."""
    return path.name.partition(MARK)[0]


def holder(path: Path) -> str | None:
    """Return the identity (`durable.writer`) of the process that holds `path`, or None at rest."""
    return path.name.partition(MARK)[2].rpartition(".")[0] or None


def held(home: Path, expiry: float = EXPIRY) -> bool:
    """Tell whether a process that may still live holds the folder `home`."""
    current = find(home)
    return current is not None and current != home and not _abandoned(current, expiry)


def _abandoned(path: Path, expiry: float) -> bool:
    alive = durable.is_alive(holder(path) or "")
    if alive is False:
        return True
    try:
        return _file_server_time(path.parent) - path.stat().st_mtime > expiry
    except FileNotFoundError:
        return False  # it moved just now, so somebody lives


def _file_server_time(folder: Path) -> float:
    """Return the time by the clock of the file server, which may differ from this machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
