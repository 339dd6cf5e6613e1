"""A folder from outside, of which only regular files are opened, and none that lies elsewhere."""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from btm.errors import UserError
from btm.system import durable, lfs

_CHUNK = 8 << 20  # bytes
_NAME = re.compile(r"(?!\.)[\w.,+@= -]+")


class Folder:
    """A folder from outside; opens each file once, and only regular files that stay inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.real = path.resolve()

    def has(self, name: str) -> bool:
        """Tell whether anything is called `name`, even a dangling link."""
        return os.path.lexists(self.path / name)

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        with self.open(name) as handle:
            return os.fstat(handle.fileno()).st_size

    def open(self, name: str) -> BinaryIO:
        """Open a regular file; a link must stay in the folder, or in the blobs of a Hub cache."""
        place = self.path / name
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError):
            raise UserError(f"{place}: a broken link; copy the folder with cp -rL") from None
        homes = [self.real]
        if self.real.parent.name == "snapshots":  # a Hub cache: its files are links to blobs
            homes.append(self.real.parent.parent / "blobs")
        if not any(real.is_relative_to(home) for home in homes):
            raise UserError(
                f"{place}: a link that leads out of the folder; copy the folder with cp -rL"
            )
        try:
            # Not blocking: opening a pipe would wait for somebody to write.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{place}: {error.strerror}") from None
        stream = os.fdopen(handle, "rb") if stat.S_ISREG(os.fstat(handle).st_mode) else None
        if stream is None:
            os.close(handle)
            raise UserError(f"{place}: wanted a regular file")
        try:
            _refuse_pointer(place, stream)
        except UserError:
            stream.close()
            raise
        return stream

    def matching(self, pattern: str) -> list[str]:
        """List the files that match `pattern`, as relative paths, sorted.

        Folders are left out, as are names that could not stand in SHA256SUMS or are hidden. A
        pattern that is a name also finds what `open` refuses: a dangling link, a folder.
        """
        if "*" not in pattern:
            return [pattern] if self.has(pattern) else []
        matching = (path for path in self.path.glob(pattern) if not path.is_dir())
        found = (path.relative_to(self.path) for path in matching)
        return sorted(p.as_posix() for p in found if all(_NAME.fullmatch(n) for n in p.parts))

    def read(self, name: str, most: int) -> bytes:
        """Read the content of a small file."""
        with self.open(name) as handle:
            content = handle.read(most + 1)
        if len(content) > most:
            raise UserError(f"{self.path / name}: larger than {most:,} bytes")
        return content

    def sha256(self, name: str, alive: Callable[[], None]) -> str:
        """Compute the sha256 of a file."""
        digest = hashlib.sha256()
        with self.open(name) as handle:
            while piece := handle.read(_CHUNK):
                digest.update(piece)
                alive()
        return digest.hexdigest()

    def copy(self, name: str, target: Path, alive: Callable[[], None]) -> str:
        """Copy a file; return the sha256 of what was copied."""
        digest = hashlib.sha256()
        with self.open(name) as handle, durable.naming(target), target.open("xb") as out:
            before = os.fstat(handle.fileno())
            left = before.st_size
            while piece := handle.read(min(_CHUNK, left)):
                digest.update(piece)
                out.write(piece)
                left -= len(piece)
                alive()
            after = os.fstat(handle.fileno())
        if left or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UserError(
                f"{self.path / name}: changed while it was read; "
                "import it when nothing writes to it"
            )
        return digest.hexdigest()


def _refuse_pointer(place: Path, stream: BinaryIO) -> None:
    """Raise `UserError` if an open file is a git-LFS pointer; it stays at its beginning."""
    if os.fstat(stream.fileno()).st_size <= lfs.LONGEST:
        lfs.refuse_content(place, stream.read())
        stream.seek(0)
