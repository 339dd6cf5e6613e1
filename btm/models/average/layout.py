"""The layout of the written weight files: their headers, and the place of each tensor."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btm.models import weights as wt
from btm.models.files import INDEX, WEIGHTS
from btm.system.json_files import Json


@dataclass(frozen=True)
class Entry:
    """One tensor of a file to write: `size` elements from byte `offset` on."""

    name: str
    dtype: str
    size: int
    offset: int


@dataclass(frozen=True)
class File:
    """One weight file to write: its name, its header and its tensors by offset."""

    name: str
    head: bytes
    entries: list[Entry]


def plan(like: Path, dtype: str | None, shard_bytes: int | None) -> list[File]:
    """Plan the files to write: as in the folder `like`, or with other floats or sizes.

    `dtype` replaces that of float tensors; `shard_bytes` is the most that one file may hold.
    """
    if dtype is None and shard_bytes is None:
        return [_copy(file) for file in wt.files(like)]
    return new_files(wt.tensors(like).values(), dtype, shard_bytes)


def new_files(
    tensors: Iterable[wt.Tensor],
    dtype: str | None,
    shard_bytes: int | None,
    notes: Mapping[str, str] = {},
) -> list[File]:
    """Plan the files of `tensors`, in their order; `dtype` and `shard_bytes` as in `plan`.

    `notes` stand in the metadata of each, and so in its sha256.
    """
    shards: list[list[wt.Tensor]] = [[]]
    for tensor in tensors:
        held = sum(_bytes(other, dtype) for other in shards[-1])
        if shards[-1] and shard_bytes is not None and held + _bytes(tensor, dtype) > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return [_new(_name(i, len(shards)), shard, dtype, notes) for i, shard in enumerate(shards)]


def write_index(files: list[File], like: Path, target: Path) -> None:
    """Write the index of several files; a copy of `like`'s if the files are the same."""
    name = INDEX
    same = [file.name for file in files] == [file.name for file in wt.files(like)]
    if same and (like / name).is_file():
        (target / name).write_bytes((like / name).read_bytes())
    else:
        write_new_index(files, target)


def write_new_index(files: list[File], target: Path) -> None:
    """Write the index of several files; one file needs none."""
    if len(files) > 1:
        total = sum(
            e.size * np.dtype(_kinds()[e.dtype]).itemsize for file in files for e in file.entries
        )
        where = {entry.name: file.name for file in files for entry in file.entries}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy(file: Path) -> File:
    tensors, head = wt.header(file)
    entries = [Entry(t.name, t.dtype, math.prod(t.shape), t.offset) for t in tensors]
    return File(file.name, head, entries)


def _new(name: str, tensors: list[wt.Tensor], dtype: str | None, notes: Mapping[str, str]) -> File:
    """Lay out a file of `tensors` as safetensors does: widest dtype first, so all are aligned."""
    header: Json = {"__metadata__": {"format": "pt", **notes}}
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
