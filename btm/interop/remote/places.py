"""A remote that is open: `Local`, a folder, or `Bucket`, whatever fsspec has a client for.

Both write an object whole or not at all, and refuse to write over one that another wrote.
"""

import fcntl
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from btm.errors import UserError, first_line
from btm.interop.remote.manifest import Content
from btm.interop.remote.urls import Url
from btm.system import durable
from btm.system.outside import Folder

Told = Callable[[int], None]  # how many more bytes travelled
_PIECE = 16 << 20  # bytes of one request: large enough for full speed, small enough to hold several
_AT_ONCE = 4  # requests of a fetch
_MOST_PARTS = 9_000  # of an upload in parts; S3 takes 10,000
_LOST = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


@dataclass(frozen=True)
class Seen:
    """The content of a small object, and a tag that changes whenever the object does."""

    content: bytes
    tag: str


@dataclass(frozen=True)
class Stat:
    """The bytes of an object, and when it was written: seconds since 1970 by the store's clock."""

    size: int
    written: float


class Pieces:
    """The bytes of a file, read piece by piece in order and hashed as they are handed on.

    fsspec's clients take it for bytes: they ask for its length and for slices, one after another.
    If the sum is not the one expected, the last slice is a byte short: raising in the middle of a
    client's work would leave its other requests hanging, and an object of another size is never
    taken for the file, should this process be killed before it deletes it.
    """

    def __init__(self, file: Path, expected: Content, told: Told) -> None:
        self.file, self.expected, self.told = file, expected, told
        self.digest = hashlib.sha256()
        self.at = 0
        self.damaged = False
        self.handle = file.open("rb")

    def __len__(self) -> int:
        return self.expected.size

    def __getitem__(self, asked: slice) -> bytes:
        begin, end, _ = asked.indices(len(self))
        if begin != self.at:
            raise ValueError(f"bytes from {begin} were asked for after {self.at}")
        piece = self.handle.read(end - begin)
        self.digest.update(piece)
        self.at += len(piece)
        self.told(len(piece))
        if end == len(self) and not self._as_expected():
            self.damaged = True
            return piece[:-1]
        return piece

    def _as_expected(self) -> bool:
        return self.digest.hexdigest() == self.expected.sha256 and not self.handle.read(1)

    def require_as_expected(self) -> None:
        """Raise `UserError` if the bytes that were read were other than expected."""
        if self.damaged:
            raise UserError(
                f"{self.file}: not the bytes of its SHA256SUMS: damaged, restore it from a copy"
            )

    def close(self) -> None:
        """Close the file."""
        self.handle.close()


@dataclass(frozen=True)
class Local:
    """A folder, perhaps on a network file system."""

    url: Url

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.url.path)

    def read(self, key: str, most: int) -> Seen | None:
        """Read a small object; None if there is none."""
        place = self.root / key
        if not os.path.lexists(place):
            return None
        content = Folder(self.root).read(key, most)
        return Seen(content, hashlib.sha256(content).hexdigest())

    def read_many(self, keys: Iterable[str], most: int) -> list[bytes | None]:
        """Read small objects; None for one that is not there."""
        found = [self.read(key, most) for key in keys]
        return [None if seen is None else seen.content for seen in found]

    def folders(self, key: str) -> list[str]:
        """List the folders in a folder."""
        place = self.root / key
        if not place.is_dir():
            return []
        return sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))

    def sizes(self, key: str) -> dict[str, int]:
        """List the files below a folder, with their bytes."""
        return {name: found.size for name, found in self.stats(key).items()}

    def stats(self, key: str) -> dict[str, Stat]:
        """List the files below a folder, with their bytes and times."""
        place, found = self.root / key, {}
        for file in place.rglob("*"):
            with suppress(FileNotFoundError):  # it was deleted meanwhile
                if file.is_file() and not file.name.startswith(".tmp-"):
                    seen = file.stat()
                    found[file.relative_to(place).as_posix()] = Stat(seen.st_size, seen.st_mtime)
        return found

    def create(self, key: str, content: bytes) -> bool:
        """Write a small object; return False, with nothing written, if one stands there."""
        try:
            with durable.publish_file(self.root / key, replace=False) as handle:
                handle.write(content)
        except FileExistsError:
            return False
        return True

    def replace(self, key: str, content: bytes, seen: Seen) -> bool:
        """Replace a small object; return False, with nothing written, unless it is still `seen`."""
        place = self.root / key
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # the kernel frees it with the process
            now = self.read(key, len(seen.content))
            if now is None or now.tag != seen.tag:
                return False
            with durable.publish_file(place) as handle:
                handle.write(content)
        finally:
            os.close(folder)
        return True

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, over whatever stands there."""
        with durable.publish_file(self.root / key) as handle:
            handle.write(content)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        (self.root / key).unlink(missing_ok=True)

    def send(self, file: Path, key: str, expected: Content, told: Told) -> None:
        """Write a file, hashed as it is sent; `UserError`, and nothing appears, if it is not as
        `expected`.
        """
        place = self.root / key
        durable.make_folder(place.parent)
        durable.sweep(place.parent)  # what killed pushes left
        pieces = Pieces(file, expected, told)
        try:
            with durable.publish_file(place) as handle:
                if not len(pieces):
                    pieces[0:0]
                for at in range(0, len(pieces), _PIECE):
                    handle.write(pieces[at : at + _PIECE])
                pieces.require_as_expected()
        finally:
            pieces.close()

    def fetch(self, key: str, begin: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `begin` up to `size` of them and one more, if there is."""
        with Folder(self.root).open(key) as handle:
            handle.seek(begin)
            left = size + 1 - begin
            while left > 0 and (piece := handle.read(min(_PIECE, left))):
                left -= len(piece)
                yield piece


class UnreachableError(UserError):
    """A store did not do what it was asked; later it may."""


class Bucket:
    """A bucket of an object store, by the client library that fsspec has for it."""

    def __init__(self, url: Url) -> None:
        import fsspec

        self.url = url
        with self._plainly():
            # No caches: another pusher may write at any moment, and a test opens several servers.
            self.fs: Any = fsspec.filesystem(
                url.scheme, skip_instance_cache=True, use_listings_cache=False
            )

    def read(self, key: str, most: int) -> Seen | None:
        """Read a small object; None if there is none."""
        path = self._path(key)
        with self._plainly():
            try:
                # Before the content: if it is replaced in between, the old tag matches nothing.
                tag = str(self.fs.info(path).get("ETag", ""))
                return Seen(self.fs.cat_file(path, start=0, end=most + 1), tag)
            except FileNotFoundError:
                return None

    def read_many(self, keys: Iterable[str], most: int) -> list[bytes | None]:
        """Read small objects, many at once; None for one that is not there."""
        paths = [self._path(key) for key in keys]
        if not paths:
            return []
        with self._plainly():
            starts, ends = [0] * len(paths), [most + 1] * len(paths)
            found = self.fs.cat_ranges(paths, starts, ends, on_error="return")
            for each in found:
                if isinstance(each, Exception) and not isinstance(each, FileNotFoundError):
                    raise each
        return [None if isinstance(each, Exception) else each for each in found]

    def folders(self, key: str) -> list[str]:
        """List the folders in a folder."""
        with self._plainly():
            try:
                found = self.fs.ls(self._path(key), detail=True)
            except FileNotFoundError:
                return []
        names = (each["name"].rstrip("/") for each in found if each["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in names)

    def sizes(self, key: str) -> dict[str, int]:
        """List the files below a folder, with their bytes."""
        return {name: found.size for name, found in self.stats(key).items()}

    def stats(self, key: str) -> dict[str, Stat]:
        """List the objects below a folder, with their bytes and times."""
        home = self._path(key)
        with self._plainly():
            try:
                found = self.fs.find(home, detail=True)
            except FileNotFoundError:
                return {}
            return {
                name.removeprefix(f"{home}/"): Stat(each["size"], _written(each))
                for name, each in found.items()
            }

    def create(self, key: str, content: bytes) -> bool:
        """Write a small object; return False, with nothing written, if one stands there."""
        return self._put_if(key, content, mode="create")

    def replace(self, key: str, content: bytes, seen: Seen) -> bool:
        """Replace a small object; return False, with nothing written, unless it is still `seen`."""
        if self.url.scheme != "s3" or not seen.tag:
            raise UserError(f"{self.url}: {self.url.scheme}:// replaces nothing: give another name")
        return self._put_if(key, content, IfMatch=seen.tag)

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, over whatever stands there."""
        with self._plainly():
            self.fs.pipe_file(self._path(key), content)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        with self._plainly(), suppress(FileNotFoundError):
            self.fs.rm_file(self._path(key))

    def send(self, file: Path, key: str, expected: Content, told: Told) -> None:
        """Write a file, hashed as it is sent; `UserError`, and nothing appears, if it is not as
        `expected`.
        """
        pieces: Any = Pieces(file, expected, told)
        piece = max(_PIECE, math.ceil(expected.size / _MOST_PARTS))
        try:
            with self._plainly():
                if expected.size < 2 * piece:
                    data = pieces[:]
                    pieces.require_as_expected()
                    self.fs.pipe_file(self._path(key), data)
                    return
                self.fs.pipe_file(self._path(key), pieces, chunksize=piece)
                if pieces.damaged:
                    self.fs.rm_file(self._path(key))
                pieces.require_as_expected()
        finally:
            pieces.close()

    def fetch(self, key: str, begin: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `begin` up to `size`.

        Whether it has more is seen by its size in a listing: a range beyond the end is an error.
        """
        path = self._path(key)
        batch = _PIECE * _AT_ONCE
        for at in range(begin, size, batch):
            starts = list(range(at, min(at + batch, size), _PIECE))
            ends = [min(start + _PIECE, size) for start in starts]
            with self._plainly():
                found = self.fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
            yield from found

    def _path(self, key: str) -> str:
        return f"{self.url.path}/{key}"

    def _put_if(self, key: str, content: bytes, **condition: str) -> bool:
        with self._plainly():
            try:
                self.fs.pipe_file(self._path(key), content, **condition)
            except (OSError, ValueError) as error:
                if not _is_lost(error):
                    raise
                return False
        return True

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Make every error of the client library within the block one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each library fails in its own ways
            raise UnreachableError(f"{self.url}: {_why(error)}") from error


def open_place(url: Url) -> Local | Bucket:
    """Open the remote at a URL; nothing is asked of it yet."""
    if url.scheme == "hf":
        raise UserError(
            f"{url}: a repository of the Hub is no forest: hf download OWNER/NAME --local-dir DIR, "
            "then btm import from=DIR"
        )
    return Local(url) if url.scheme == "file" else Bucket(url)


def _written(found: dict[str, Any]) -> float:
    """Read when an object was written from what a client library says of it."""
    said = found.get("LastModified") or found.get("mtime") or found.get("updated")
    when = datetime.fromisoformat(said) if isinstance(said, str) else said
    return float(when) if isinstance(when, int | float) else when.timestamp() if when else 0.0


def _is_lost(error: BaseException) -> bool:
    """Tell whether a conditional write failed because of its condition."""
    if isinstance(error, FileExistsError):
        return True
    cause = error.__cause__ or error
    code = ""
    with suppress(AttributeError, KeyError, TypeError):
        code = str(cause.response["Error"]["Code"])  # type: ignore[attr-defined]
    return (code or str(getattr(cause, "code", ""))) in _LOST


def _why(error: BaseException) -> str:
    """Say in one line what failed, with the remedy where it is known."""
    if "credentials" in type(error).__name__.lower() or "credentials" in str(error).lower():
        return (
            f"{first_line(error)}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else "
            "the client library reads"
        )
    if isinstance(error, PermissionError):
        return f"access denied ({first_line(error)}): these credentials may not do that there"
    if isinstance(error, FileNotFoundError):
        return f"not found ({first_line(error)}): is the bucket right?"
    return first_line(error)
