"""Weight files (safetensors) read and written a chunk at a time, with numpy alone.

A model folder holds ``model.safetensors``, or several files and an index. safetensors is a length, a
JSON header and the tensors' bytes; its header is validated here because folders come from outside.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError

CHUNK = 1 << 20  # elements held in memory at a time
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # bfloat16 is handled as its bits
INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "u1"}
_MAX_HEADER = 100_000_000  # the limit of the safetensors format itself


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
        """Return the elements as stored, flat, as a memory map."""
        dtype = np.dtype((FLOATS | INTEGERS)[self.dtype])
        if not self.size:
            return np.empty(0, dtype)
        return np.memmap(self.file, dtype, "r", self.offset, (self.size // dtype.itemsize,))

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be averaged."""
        return self.dtype in FLOATS


def files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted; `UserError` if there is none."""
    found = sorted(folder.glob("model*.safetensors"))
    if not found:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        hint = "; its pickled weights are never loaded: convert them to safetensors" if pickled else ""
        raise UserError(f"{folder}: no model.safetensors{hint}")
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a model folder by name, in the order of the files."""
    return {tensor.name: tensor for file in files(folder) for tensor in header(file)[0]}


def header(file: Path) -> tuple[list[Tensor], bytes]:
    """Return the tensors of one file, by offset, and its header as it stands, length included."""
    try:
        with file.open("rb") as handle:
            prefix = handle.read(8)
            (length,) = struct.unpack("<Q", prefix)
            if length > _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            text = handle.read(length)
        entries = json.loads(text)
        found = [
            _tensor(file, name, entry, 8 + length)
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise UserError(f"{file}: not a valid safetensors file: {error}") from None
    found.sort(key=lambda tensor: tensor.offset)
    end = 8 + length
    for tensor in found:
        if tensor.offset != end:
            raise UserError(f"{file}: not a valid safetensors file: a gap or overlap before {tensor.name!r}")
        end += tensor.size
    if end != file.stat().st_size:
        raise UserError(
            f"{file}: truncated or overlong: {file.stat().st_size:,} bytes, its header says {end:,}"
        )
    return found, prefix + text


def to_float64(raw: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Return stored elements of a float `dtype` as float64."""
    if dtype == "BF16":
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float64)


def from_float64(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Return `values` in the storage form of `dtype`, rounded to nearest, ties to even."""
    if dtype != "BF16":
        return values.astype(FLOATS[dtype])
    single = values.astype(np.float32)
    # Rounded to odd here, so that the rounding to bfloat16 is the only one: two in a row may miss a tie.
    bits = single.view(np.uint32) - (np.abs(single.astype(np.float64)) > np.abs(values))
    bits = bits.astype(np.uint32) | (single != values)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FC0), rounded)


def chunks(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """Yield the tensor's stored elements, `CHUNK` at a time."""
    raw = tensor.raw()
    for start in range(0, len(raw), CHUNK):
        yield raw[start : start + CHUNK]


def first_not_finite(folder: Path) -> str | None:
    """Return the name of a tensor that holds a NaN or an infinity, or None."""
    for tensor in tensors(folder).values():
        if tensor.is_float and not all(
            np.isfinite(to_float64(c, tensor.dtype)).all() for c in chunks(tensor)
        ):
            return tensor.name
    return None


def digests(folder: Path) -> dict[str, str]:
    """Return {weight file: sha256 of its bytes}."""
    return {file.name: file_sha256(file) for file in files(folder)}


def identity(digests: dict[str, str]) -> str:
    """Return what a model's weights are known by: the sha256 of its one file, or of the list of several."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    listed = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(listed.encode()).hexdigest()


def sha256(folder: Path) -> str:
    """Return the identity of the weights in a model folder."""
    return identity(digests(folder))


def parameters(folder: Path) -> int:
    """Return the number of stored parameters; tied ones count once."""
    return sum(math.prod(tensor.shape) for tensor in tensors(folder).values())


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _tensor(file: Path, name: str, entry: dict[str, Any], base: int) -> Tensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in FLOATS and dtype not in INTEGERS:
        raise ValueError(f"tensor {name!r} has dtype {dtype}, which btm does not read")
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a shape or offsets that are no counts")
    if end - begin != math.prod(shape) * np.dtype((FLOATS | INTEGERS)[dtype]).itemsize:
        raise ValueError(f"tensor {name!r}: shape and offsets disagree")
    return Tensor(name, file, dtype, shape, base + begin, end - begin)
