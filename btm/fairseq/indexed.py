r"""fairseq's binarised text, `PREFIX.bin` and `PREFIX.idx` of its format *mmap*, in numpy.

The index is ``MMIDIDX\0\0``, version 1 (uint64), a code of the token type (one byte), the number N
of lines (uint64), their lengths in tokens (int32, N) and their offsets in the .bin (int64 bytes,
N).
"""

import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.system import durable, lfs

_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQ")  # magic, version, code, lines
# fairseq's codes of token types, from 1 on.
_TYPES = dict(enumerate(("u1", "i1", "<i2", "<i4", "<i8", "<f8", "<f8", "<u2", "<u4", "<u8"), 1))
_CODES = {"uint16": 8, "uint32": 9, "int64": 5}
_OTHERS = {b"TNTIDX\0\0": "cached or lazy", b"HUFFIDX\0": "huffman"}


@dataclass(frozen=True)
class Indexed:
    """Lines of token ids: `tokens` of all lines, one after another; `sizes`, the length of each."""

    tokens: NDArray[np.integer]
    sizes: NDArray[np.int32]


def exists(prefix: Path) -> bool:
    """Tell whether both files of `prefix` exist."""
    return all(with_ending(prefix, ending).is_file() for ending in ("bin", "idx"))


def with_ending(prefix: Path, ending: str) -> Path:
    """Return the file of `prefix` with an ending; the prefix may hold dots."""
    return prefix.with_name(f"{prefix.name}.{ending}")


def read(prefix: Path, vocab_size: int) -> Indexed:
    """Open `prefix`.bin and .idx as memory maps.

    Raises `UserError` unless both are whole, of the format *mmap*, and hold only ids below
    `vocab_size`.
    """
    idx, bin_ = with_ending(prefix, "idx"), with_ending(prefix, "bin")
    dtype, n = _header(idx)
    if idx.stat().st_size != _HEADER.size + 12 * n:
        raise UserError(
            f"{idx}: {idx.stat().st_size:,} bytes, but {n:,} lines need {_HEADER.size + 12 * n:,}: "
            "truncated; copy or binarise it again"
        )
    sizes = np.fromfile(idx, "<i4", n, offset=_HEADER.size)
    pointers = np.fromfile(idx, "<i8", n, offset=_HEADER.size + 4 * n)
    ends = np.cumsum(sizes, dtype=np.int64)
    if (sizes < 0).any() or not np.array_equal(pointers, (ends - sizes) * dtype.itemsize):
        raise UserError(f"{idx}: its lines do not follow one another; binarise the text again")
    wanted = int(ends[-1]) * dtype.itemsize if n else 0
    found = bin_.stat().st_size if bin_.is_file() else 0
    if found != wanted:
        lfs.refuse(bin_)
        raise UserError(
            f"{bin_}: {found:,} bytes, but {idx.name} says {wanted:,}: copy or binarise it again"
        )
    tokens = np.memmap(bin_, dtype, "r") if wanted else np.empty(0, dtype)
    for chunk in np.array_split(tokens, max(1, len(tokens) >> 22)):
        if len(chunk) and not 0 <= int(chunk.min()) <= int(chunk.max()) < vocab_size:
            raise UserError(
                f"{bin_}: a token id outside 0 to {vocab_size - 1}: dict.txt is of other data"
            )
    return Indexed(tokens, sizes)


def count_tokens(idx: Path) -> int:
    """Count the tokens beside an .idx file by the size of its .bin; `UserError` for no index."""
    dtype, _ = _header(idx)
    return idx.with_name(f"{idx.name.removesuffix('.idx')}.bin").stat().st_size // dtype.itemsize


def _header(idx: Path) -> tuple[np.dtype, int]:
    """Read the token type and the number of lines from the header of an index."""
    lfs.refuse(idx)
    try:
        with idx.open("rb") as handle:
            head = handle.read(_HEADER.size)
    except OSError as error:
        raise UserError(f"{idx}: {error.strerror}") from None
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise UserError(f"{idx}: fairseq's format {name}; binarise with --dataset-impl mmap")
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise UserError(f"{idx}: no index of fairseq's format mmap (it begins with MMIDIDX)")
    _, version, code, n = _HEADER.unpack(head)
    if version != 1 or _TYPES.get(code, "f8")[-2] == "f" or n >> 40:
        raise UserError(
            f"{idx}: version {version}, token type {code}, {n:,} lines; wanted 1 and whole numbers"
        )
    return np.dtype(_TYPES[code]), n


def write(prefix: Path, pieces: Iterable[Indexed], vocab_size: int) -> int:
    """Publish `prefix`.bin and .idx, bit for bit as fairseq-preprocess; return the token count.

    The token type is fairseq's choice for `vocab_size`; the .idx appears last, so a reader finds
    both or none.
    """
    name = "uint16" if vocab_size < 65_500 else "uint32" if vocab_size < 0xFFFFFFFF else "int64"
    dtype = np.dtype(name).newbyteorder("<")
    sizes: list[NDArray[np.int32]] = []
    with ExitStack() as stack:
        idx = stack.enter_context(durable.publish_file(with_ending(prefix, "idx")))
        bin_ = stack.enter_context(durable.publish_file(with_ending(prefix, "bin")))
        for piece in pieces:
            bin_.write(piece.tokens.astype(dtype).tobytes())
            sizes.append(piece.sizes.astype("<i4"))
        sizes_N = np.concatenate([np.empty(0, "<i4"), *sizes])
        ends_N = np.cumsum(sizes_N, dtype="<i8")
        _write_index(idx, name, sizes_N, ends_N - sizes_N)
    return int(ends_N[-1]) if len(sizes_N) else 0


def link(
    prefix: Path, source: Path, dtype: str, begin: int, tokens: int, wanted: int, line: int
) -> None:
    """Publish a `prefix`.idx over `tokens` of the file `source`, and link the .bin to that file.

    The tokens, from `begin` on, are cut into lines of `line` tokens and repeated until there are
    `wanted`: an index may list a token many times, so nothing is copied. `dtype` is that of
    `source`, uint16 or uint32, little-endian.
    """
    starts_N = np.arange(0, tokens, line, dtype="<i8")
    sizes_N = np.minimum(line, tokens - starts_N)
    copies = -(-wanted // tokens)
    starts_N, sizes_N = np.tile(starts_N, copies), np.tile(sizes_N, copies)
    ends_N = np.cumsum(sizes_N)
    n = int(np.searchsorted(ends_N, wanted)) + 1
    sizes_N[n - 1] -= ends_N[n - 1] - wanted
    with durable.publish_file(with_ending(prefix, "idx")) as idx:
        _write_index(idx, dtype, sizes_N[:n].astype("<i4"), begin + starts_N[:n])
    with_ending(prefix, "bin").symlink_to(source.absolute())


def _write_index(
    idx: BinaryIO, dtype: str, sizes_N: NDArray[np.integer], starts_N: NDArray[np.integer]
) -> None:
    """Write an index of lines that begin at the tokens `starts_N`."""
    idx.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype], len(sizes_N)))
    idx.write(sizes_N.tobytes())
    idx.write((starts_N * np.dtype(dtype).itemsize).astype("<i8").tobytes())
