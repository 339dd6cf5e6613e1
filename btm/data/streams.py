"""Plain and compressed files as streams of bytes, and the errors of a damaged one (`DAMAGED`)."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from btm.data.formats import compression_of

_PACKED = 1 << 13  # bytes decompressed at once: few, since each may become 32,000
_BUFFER = 1 << 18


class DamagedError(Exception):
    """A compressed file that cannot be decompressed."""


# What reading a damaged file raises; a gzip that ends early is an EOFError. Other errors of the
# system, as of a disk, say nothing of the file.
DAMAGED = (DamagedError, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


def open_bytes(path: Path) -> BinaryIO:
    """Open a plain, .gz, .bz2, .xz or .zst file for reading its decompressed bytes."""
    compression = compression_of(path)
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if compression == ".bz2":
        return cast(BinaryIO, bz2.open(path))
    if compression == ".xz":
        return cast(BinaryIO, lzma.open(path))
    if compression:
        return cast(BinaryIO, io.BufferedReader(_Zstandard(path), _BUFFER))
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """The decompressed bytes of a zstandard file; the library's reader misses a truncated end."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._file = path.open("rb")
        self._error = zstandard.ZstdError
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame: Any = None  # the frame that is being decompressed
        self._packed = b""  # read and not yet decompressed
        self._ready = memoryview(b"")  # decompressed and not yet handed out

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and self._unpack():
            pass
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()

    def _unpack(self) -> bool:
        """Decompress some more into `_ready`; False at the end of the file."""
        self._packed = self._packed or self._file.read(_PACKED)
        if not self._packed:
            if self._frame is not None:
                raise DamagedError("the file ends in the middle of a zstandard frame")
            return False
        if self._frame is None:
            self._frame = self._unpacker.decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(self._packed))
        except self._error as error:
            raise DamagedError(str(error)) from None
        self._packed = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        return True
