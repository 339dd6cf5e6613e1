"""Weight files of our own layout: written a chunk at a time, in one file or in shards with an index."""

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm import weights
from btm.errors import UserError

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: `pieces()` yields its bytes, row by row."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[bytes]]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * _SIZES[self.dtype]


def write_file(file: Path, entries: Sequence[Entry], alive: Callable[[], None] = lambda: None) -> None:
    """Write a safetensors file; wide types first, so that every tensor is aligned."""
    entries = sorted(entries, key=lambda entry: -_SIZES[entry.dtype])
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        head[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.size],
        }
        end += entry.size
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            for piece in entry.pieces():
                out.write(piece)
            alive()


def split(entries: Iterable[Entry], most: int) -> list[list[Entry]]:
    """Return the entries in runs of `most` bytes at most; a larger tensor has a run of its own."""
    runs: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if runs[-1] and size + entry.size > most:
            runs.append([])
            size = 0
        runs[-1].append(entry)
        size += entry.size
    return runs


def converted(tensor: weights.Tensor, dtype: str | None) -> Entry:
    """Return a stored tensor as an entry, a float one in another `dtype` if that is given.

    Writing it raises `UserError` if a finite number does not fit in `dtype`.
    """
    if dtype is None or not tensor.is_float or tensor.dtype == dtype:
        return Entry(tensor.name, tensor.dtype, tensor.shape, lambda: map(_raw, weights.chunks(tensor)))
    return Entry(tensor.name, dtype, tensor.shape, lambda: _rounded(tensor, dtype))


def _raw(chunk: NDArray[Any]) -> bytes:
    return chunk.tobytes()


def _rounded(tensor: weights.Tensor, dtype: str) -> Iterator[bytes]:
    for chunk in weights.chunks(tensor):
        values = weights.to_float64(chunk, tensor.dtype)
        with np.errstate(over="ignore"):
            made = weights.from_float64(values, dtype)
        if not np.isfinite(weights.to_float64(made, dtype)).all():
            raise UserError(
                f"tensor {tensor.name!r} has numbers too large for {dtype}; give another export.dtype"
            )
        yield made.tobytes()
