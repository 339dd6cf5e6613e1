"""Trials of a file system: does it do what a forest is kept safe by?

Network disks and mounted object stores may lack some of it. Each trial does the very thing, in a
scratch folder that is gone afterwards.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from btm.system import durable

_SKEW = 60.0  # seconds between two clocks from which on a lease would look older than it is


@dataclass(frozen=True)
class Trial:
    """One thing that was tried: whether it works, and what follows."""

    name: str
    works: bool
    meaning: str
    needed: bool = True  # without it a forest is not safe


def try_out(place: Path) -> list[Trial]:
    """Try a file system in a folder that stands and may be written to; `OSError` if it may not."""
    with durable.scratch_in(place) as scratch:
        return [trial(scratch) for trial in _TRIALS]


def kind_of(place: Path) -> str:
    """Name the type of the file system that holds `place`, as Linux does; empty elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    found = [(fields[4], fields[fields.index("-") + 1]) for fields in map(str.split, lines)]
    whole = place.resolve()
    holding = [each for each in found if whole.is_relative_to(each[0])]
    return max(holding, key=lambda each: len(each[0]))[1] if holding else ""


def _merge(scratch: Path) -> Trial:
    """A folder must not be renamed onto a name that is taken."""
    for name in ("one", "other"):
        (scratch / name).mkdir()
        (scratch / name / "file").write_bytes(b"x")
    try:
        durable.rename_folder(scratch / "one", scratch / "other")
    except FileExistsError:
        return Trial("rename", True, "of two merges under one name exactly one wins")
    return Trial("rename", False, "two merges under one name could both win: use another disk")


def _flush(scratch: Path) -> Trial:
    begun = time.monotonic()
    try:
        durable.write_json(scratch / "flushed.json", {})
    except OSError as error:
        why = f"{error.strerror}: a power cut could take what was published: use another disk"
        return Trial("flush (fsync)", False, why)
    return Trial(
        "flush (fsync)", True, f"a small file took {1e3 * (time.monotonic() - begun):.0f} ms"
    )


def _link(scratch: Path) -> Trial:
    (scratch / "first").write_bytes(b"x")
    try:
        (scratch / "second").hardlink_to(scratch / "first")
    except OSError:
        without = "copies of text and weights take their whole size"
        return Trial("hard links", False, without, needed=False)
    return Trial("hard links", True, "copies of text and weights take no room")


def _exchange(scratch: Path) -> Trial:
    if durable.can_exchange(scratch):
        return Trial("exchange", True, "an average is replaced in one step")
    without = "while an average is replaced there is none for an instant"
    return Trial("exchange", False, without, needed=False)


def _clock(scratch: Path) -> Trial:
    with tempfile.TemporaryFile(dir=scratch) as file:
        off = abs(os.fstat(file.fileno()).st_mtime - time.time())
    said = f"{off:.0f} s from this machine's"
    if off < _SKEW:
        return Trial("clock of the disk", True, said)
    return Trial("clock of the disk", False, f"{said}: leases go by the disk's; set the clocks")


_TRIALS: tuple[Callable[[Path], Trial], ...] = (_merge, _flush, _link, _exchange, _clock)
