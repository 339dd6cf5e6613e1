"""Weight files (safetensors) read and written a chunk at a time, with numpy alone.

A model folder holds ``model.safetensors``, or several files and an index. safetensors is a length,
a JSON header and the tensors' bytes; its header is validated here because folders come from
outside.
"""

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models.files import EVERY_WEIGHTS, WEIGHTS
from btm.system import lfs
from btm.system.json_files import Json, parse_json, read_regular
from btm.system.sums import file_sha256

CHUNK = 1 << 20  # elements held in memory at a time
# numpy has no bfloat16, so its bits are read as integers.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
STORED = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}  # the words of settings
INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "u1"}
_MAX_HEADER = 100_000_000  # the limit of the safetensors format itself
_MAX_RANK, _MAX_COUNT = 64, 2**63  # the limits of torch
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  # raised on JSON of another shape


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `offset` and `size` in bytes of `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def raw(self) -> NDArray[Any]:
        """Map the elements as stored, flat, into memory."""
        dtype = np.dtype((FLOATS | INTEGERS)[self.dtype])
        if not self.size:
            return np.empty(0, dtype)
        return np.memmap(self.file, dtype, "r", self.offset, (self.size // dtype.itemsize,))

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be averaged."""
        return self.dtype in FLOATS


def files(folder: Path) -> list[Path]:
    """List the weight files of a model folder, sorted; `UserError` if there is none."""
    found = sorted(folder.glob(EVERY_WEIGHTS))
    if not found:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        hint = "; its pickled weights are never loaded: convert them to safetensors"
        raise UserError(f"{folder}: no {WEIGHTS}{hint if pickled else ''}")
    return found


def read_index(file: Path) -> dict[str, str]:
    """Read the index of shards, {tensor: file name}; `UserError` if it is not a valid one."""
    try:
        return parse_index(read_regular(file), file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None


def parse_index(content: bytes, file: Path) -> dict[str, str]:
    """Parse the content of an index, {tensor: file name}; see `read_index`."""
    try:
        weight_map = parse_json(content)["weight_map"]
        names = set(weight_map.values())
    except _MALFORMED:
        raise UserError(f"{file}: not an index of weight files") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
            raise UserError(f"{file}: {name!r} is no name of a file beside it")
    if not weight_map:
        raise UserError(f"{file}: it names no tensors")
    return weight_map


def tensors(folder: Path) -> dict[str, Tensor]:
    """List every tensor of a model folder by name, in the order of the files."""
    return {tensor.name: tensor for file in files(folder) for tensor in header(file)[0]}


def header(file: Path) -> tuple[list[Tensor], bytes]:
    """Read one file's tensors, by offset, and its raw header, length included."""
    lfs.refuse(file)
    try:
        # Not blocking: opening a pipe would wait for somebody to write.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("no regular file")
            prefix = handle.read(8)
            (length,) = struct.unpack("<Q", prefix)
            if length > min(_MAX_HEADER, status.st_size):
                raise ValueError(f"a header of {length} bytes")
            text = handle.read(length)
        entries = parse_json(text, unique=True)
        found = [
            _tensor(file, name, entry, 8 + length)
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
    except (*_MALFORMED, struct.error, IsADirectoryError) as error:
        raise UserError(f"{file}: not a valid safetensors file: {error}") from None
    found.sort(key=lambda tensor: tensor.offset)
    end = 8 + length
    for tensor in found:
        if tensor.offset != end:
            raise UserError(
                f"{file}: not a valid safetensors file: a gap or overlap before {tensor.name!r}"
            )
        end += tensor.size
    if end != status.st_size:
        raise UserError(
            f"{file}: truncated or overlong: {status.st_size:,} bytes, its header says {end:,}"
        )
    return found, prefix + text


def head(entries: Json) -> bytes:
    """Encode a safetensors header, padded so that the tensors after it are aligned to 8 bytes."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_tensors(
    handle: BinaryIO, tensors: Mapping[str, tuple[str, NDArray[Any]]], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file of {name: (float dtype, values in float32 or float64)}, rounded
    once, with `metadata` in its header.
    """
    entries: Json = {"__metadata__": dict(metadata)}
    # The largest elements first, so that all are aligned.
    size = {name: np.dtype(FLOATS[dtype]).itemsize for name, (dtype, _) in tensors.items()}
    ordered, end = sorted(tensors, key=lambda name: (-size[name], name)), 0
    for name in ordered:
        dtype, values = tensors[name]
        begin, end = end, end + values.size * size[name]
        entries[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [begin, end],
        }
    handle.write(head(entries))
    for name in ordered:
        dtype, values = tensors[name]
        handle.write(narrow(values.ravel(), dtype).tobytes())


def widen(raw: NDArray[Any], dtype: str, out: NDArray[Any]) -> None:
    """Convert stored elements of a float `dtype` exactly into `out`, float32 or float64."""
    if dtype != "BF16":
        out[:] = raw
        return
    single = out if out.dtype == np.float32 else np.empty(raw.shape, np.float32)
    bits = single.view(np.uint32)
    bits[:] = raw
    np.left_shift(bits, 16, out=bits)
    if single is not out:
        out[:] = single


def narrow(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Round float32 or float64 `values` once, to nearest even, to the storage form of `dtype`."""
    if dtype != "BF16":
        return values.astype(FLOATS[dtype], copy=False)
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    if values.dtype == np.float64:
        # Round to odd here, so that the rounding to bfloat16 is the only one that counts: two
        # roundings to nearest in a row may miss a tie.
        single = bits.view(np.float32)
        down = bits - (np.abs(single.astype(np.float64)) > np.abs(values)).astype(np.uint32)
        bits = down | (single != values)
    # Add half a unit in the last place, less one bit if the kept bits are even, and cut off.
    rounded = bits >> 16
    np.bitwise_and(rounded, 1, out=rounded)
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def to_float64(raw: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Convert stored elements of a float `dtype` to float64."""
    out = np.empty(raw.shape, np.float64)
    widen(raw, dtype, out)
    return out


def chunks(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """Yield the tensor's stored elements, `CHUNK` at a time."""
    raw = tensor.raw()
    for start in range(0, len(raw), CHUNK):
        yield raw[start : start + CHUNK]


def first_not_finite(folder: Path) -> str | None:
    """Find a tensor that holds a NaN or an infinity; return its name, or None."""
    for tensor in tensors(folder).values():
        if tensor.is_float and not all(
            np.isfinite(to_float64(c, tensor.dtype)).all() for c in chunks(tensor)
        ):
            return tensor.name
    return None


def digests(folder: Path) -> dict[str, str]:
    """Compute {weight file: sha256 of its bytes}."""
    return {file.name: file_sha256(file) for file in files(folder)}


def identity(digests: dict[str, str]) -> str:
    """Identify weights by the sha256 of their one file, or of the list of several."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    listed = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(listed.encode()).hexdigest()


def sha256(folder: Path) -> str:
    """Compute the identity of the weights in a model folder."""
    return identity(digests(folder))


def parameters(folder: Path) -> int:
    """Count the stored parameters; tied ones count once."""
    return sum(math.prod(tensor.shape) for tensor in tensors(folder).values())


def _tensor(file: Path, name: str, entry: Json, base: int) -> Tensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in FLOATS and dtype not in INTEGERS:
        raise ValueError(f"tensor {name!r} has dtype {dtype}, which btm does not read")
    if len(shape) > _MAX_RANK or not all(
        type(n) is int and 0 <= n < _MAX_COUNT for n in (*shape, begin, end)
    ):
        raise ValueError(f"tensor {name!r} has a shape or offsets that are no counts")
    if end - begin != math.prod(shape) * np.dtype((FLOATS | INTEGERS)[dtype]).itemsize:
        raise ValueError(f"tensor {name!r}: shape and offsets disagree")
    return Tensor(name, file, dtype, shape, base + begin, end - begin)
