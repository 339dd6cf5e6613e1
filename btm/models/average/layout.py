"""What the written weight files look like: their headers, and where each tensor's elements go."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from btm.models import weights as wt
from btm.models.files import INDEX, WEIGHTS


@dataclass(frozen=True)
class Entry:
    """One tensor of a file that is written: `size` elements from byte `offset` on."""

    name: str
    dtype: str
    size: int
    offset: int


@dataclass(frozen=True)
class File:
    """One weight file: its name, its header as it is written, and its tensors by offset."""

    name: str
    head: bytes
    entries: list[Entry]


def plan(like: Path, dtype: str | None, shard_bytes: int | None) -> list[File]:
    """Return the files to write: those of the folder `like`, or with floats as `dtype`, or of
    `shard_bytes` at most.
    """
    if dtype is None and shard_bytes is None:
        return [_copy(file) for file in wt.files(like)]
    shards: list[list[wt.Tensor]] = [[]]
    for tensor in wt.tensors(like).values():
        held = sum(_bytes(other, dtype) for other in shards[-1])
        if shards[-1] and shard_bytes is not None and held + _bytes(tensor, dtype) > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return [_new(_name(i, len(shards)), shard, dtype) for i, shard in enumerate(shards)]


def write_index(files: list[File], like: Path, target: Path) -> None:
    """Write the index of several files, `like`'s own if the files are its own."""
    name = INDEX
    if [file.name for file in files] == [file.name for file in wt.files(like)] and (
        like / name
    ).is_file():
        (target / name).write_bytes((like / name).read_bytes())
    elif len(files) > 1:
        total = sum(
            e.size * np.dtype(_kinds()[e.dtype]).itemsize for file in files for e in file.entries
        )
        where = {entry.name: file.name for file in files for entry in file.entries}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (target / name).write_text(json.dumps(index, indent=2) + "\n")


def _copy(file: Path) -> File:
    tensors, head = wt.header(file)
    return File(
        file.name, head, [Entry(t.name, t.dtype, math.prod(t.shape), t.offset) for t in tensors]
    )


def _new(name: str, tensors: list[wt.Tensor], dtype: str | None) -> File:
    """Return a file of `tensors`, widest first, as safetensors lays them out, so that every one is
    aligned.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    entries, begin = [], 0
    for tensor in sorted(tensors, key=lambda t: -np.dtype(_kinds()[_kind(t, dtype)]).itemsize):
        kind, size = _kind(tensor, dtype), _bytes(tensor, dtype)
        header[tensor.name] = {
            "dtype": kind,
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + size],
        }
        entries.append((tensor, kind, begin))
        begin += size
    head = wt.head(header)
    return File(
        name,
        head,
        [Entry(t.name, kind, math.prod(t.shape), len(head) + at) for t, kind, at in entries],
    )


def _name(index: int, count: int) -> str:
    return WEIGHTS if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"


def _kind(tensor: wt.Tensor, dtype: str | None) -> str:
    return dtype if dtype is not None and tensor.is_float else tensor.dtype


def _bytes(tensor: wt.Tensor, dtype: str | None) -> int:
    return math.prod(tensor.shape) * np.dtype(_kinds()[_kind(tensor, dtype)]).itemsize


def _kinds() -> dict[str, str]:
    return wt.FLOATS | wt.INTEGERS
