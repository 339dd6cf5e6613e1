"""The file of a sparse expert: the parents it begins with, by hash and weight, and what it adds to
their average.

``delta.safetensors`` holds for each tensor that changed the float16 changes, ``value.<tensor>``,
and where they go, ``index.<tensor>``: positions in the flat tensor as gaps, a byte each (see
`encode`). Its metadata are one JSON object. The model is defined by it: average the parents as a
branch does, widen to float32, add, and round to the dtype of the tensor. Nothing here needs torch.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.checks import is_name
from btm.errors import UserError
from btm.forest.card import Parent, read_parents
from btm.models import weights
from btm.system import durable
from btm.system.json_files import Json, parse_json

FILE = "delta.safetensors"
STORABLE = ("F32", "F16", "BF16")  # dtypes of a tensor that float32 holds exactly
_KEY = "btm-delta"
_SCHEMA = 1
_SKIP = 255  # a byte that is no entry: 255 positions further

Entries = tuple[NDArray[np.int64], NDArray[np.float16]]  # positions, ascending; changes


@dataclass(frozen=True)
class Delta:
    """The changes that a sparse expert adds to the average of its parents; `sha256` is that of
    the resulting weights.
    """

    parents: dict[str, Parent]
    sha256: str
    density: float
    budget: int  # entries that were free to change, those that ended at 0 included
    tensors: dict[str, Entries]

    @property
    def nonzeros(self) -> int:
        """The changes that are stored."""
        return sum(len(index) for index, _ in self.tensors.values())

    @property
    def said(self) -> str:
        """Say in words how much changes."""
        return f"{self.nonzeros:,} changes"


def encode(index: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Encode ascending positions as gaps.

    A byte under 255 ends an entry; each byte of 255 before it adds 255 to its gap.
    """
    gaps = np.diff(index, prepend=-1) - 1
    skips, rests = np.divmod(gaps, _SKIP)
    ends = np.cumsum(skips + 1) - 1
    out = np.full(int(ends[-1]) + 1 if len(ends) else 0, _SKIP, np.uint8)
    out[ends] = rests
    return out


def decode(gaps: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Decode `gaps` from `encode` into positions; `ValueError` if they end within an entry."""
    if len(gaps) and gaps[-1] == _SKIP:
        raise ValueError("the positions end within an entry")
    (ends,) = np.nonzero(gaps != _SKIP)
    return np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(len(ends))


def write(file: Path, delta: Delta) -> None:
    """Publish a delta; tensors without a change are left out."""
    from safetensors.numpy import save

    kept = {name: entries for name, entries in delta.tensors.items() if len(entries[0])}
    stored: dict[str, NDArray[Any]] = {f"value.{name}": value for name, (_, value) in kept.items()}
    stored |= {f"index.{name}": encode(index) for name, (index, _) in kept.items()}
    said = {
        "schema": _SCHEMA,
        "sha256": delta.sha256,
        "density": delta.density,
        "budget": delta.budget,
        "parents": {name: asdict(parent) for name, parent in delta.parents.items()},
    }
    with durable.publish_file(file) as handle:
        handle.write(save(stored, {_KEY: json.dumps(said)}))


def read(file: Path) -> Delta:
    """Read the delta in `file`; `UserError` if it is missing, damaged, or from a newer btm."""
    if not file.is_file():
        raise UserError(
            f"{file}: no such file: wanted the delta of a sparse expert (btm export format=delta)"
        )
    try:
        found, said, parents = contents(file, _KEY, _SCHEMA)
        if not (isinstance(said["sha256"], str) and type(said["budget"]) is int):
            raise ValueError("no sha256, or no budget")
        tensors = _entries(found)
        return Delta(parents, said["sha256"], float(said["density"]), said["budget"], tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a valid delta ({error}): damaged, export it again") from None


def contents(
    file: Path, key: str, schema: int
) -> tuple[dict[str, weights.Tensor], Json, dict[str, Parent]]:
    """Read the tensors of a difference's file, the JSON object `key` of its metadata, and its
    parents.

    Raises `UserError` if it is from a newer btm, and `ValueError`, `KeyError`, `TypeError` or
    `AttributeError` where it is not valid.
    """
    found, head = weights.header(file)
    said = parse_json(parse_json(head[8:])["__metadata__"][key].encode())
    if said["schema"] > schema:
        raise UserError(f"{file}: written by a newer btm (schema {said['schema']})")
    parents = read_parents(file, said["parents"])
    if not parents or not all(map(is_name, parents)):
        raise ValueError(f"parents {list(parents)}")
    return {tensor.name: tensor for tensor in found}, said, parents


def _entries(stored: Mapping[str, weights.Tensor]) -> dict[str, Entries]:
    """Read the entries of each tensor; `ValueError` if they are not valid."""
    names = {name.removeprefix("value.") for name in stored if name.startswith("value.")}
    if stored.keys() != {f"{part}.{name}" for part in ("value", "index") for name in names}:
        raise ValueError("values without positions, or positions without values")
    tensors = {}
    for name in sorted(names):
        value, index = stored[f"value.{name}"], stored[f"index.{name}"]
        if (value.dtype, index.dtype) != ("F16", "U8"):
            raise ValueError(f"{name!r} is stored as {value.dtype} and {index.dtype}")
        at, change = decode(np.asarray(index.raw())), np.asarray(value.raw())
        if len(at) != len(change) or not np.isfinite(change).all():
            raise ValueError(
                f"{name!r} has {len(at)} positions and {len(change)} values, or one not finite"
            )
        tensors[name] = (at, change)
    return tensors


def apply(delta: Delta, folder: Path) -> None:
    """Add a delta to the weights in an unpublished `folder`, the average of its parents.

    Raises `UserError` if the tensors are not those that it was made for, or if the result has
    another sha256.
    """
    found = weights.tensors(folder)
    changes = {name: entries for name, entries in delta.tensors.items() if len(entries[0])}
    for name, (at, _) in changes.items():
        if name not in found or found[name].dtype not in STORABLE:
            raise UserError(f"the delta changes a tensor {name!r}, which its parents do not have")
        if at[-1] >= found[name].size // found[name].raw().itemsize:
            raise UserError(f"the delta changes more of tensor {name!r} than its parents have")

    def changed(tensor: weights.Tensor) -> NDArray[np.float32] | None:
        if tensor.name not in changes:
            return None
        out = np.empty(tensor.raw().shape, np.float32)
        weights.widen(tensor.raw(), tensor.dtype, out)
        return add(out, changes[tensor.name])

    rewrite(folder, folder, changed)
    if (made := weights.sha256(folder)) != delta.sha256:
        raise UserError(
            f"the parents and the delta give weights of sha256 {made[:12]}, wanted "
            f"{delta.sha256[:12]}: it is damaged"
        )


def add(values: NDArray[np.float32], entries: Entries) -> NDArray[np.float32]:
    """Add changes to flat float32 `values`, in place, and return those."""
    at, change = entries
    values[at] += change.astype(np.float32)
    return values


def rewrite(
    source: Path, target: Path, values: Callable[[weights.Tensor], NDArray[Any] | None]
) -> None:
    """Write the weight files of `source` into `target`, their headers unchanged, with other
    `values` (float32 or float64, rounded once) where not None.
    """
    for file in weights.files(source):
        tensors, head = weights.header(file)
        with durable.publish_file(target / file.name) as handle:
            handle.write(head)
            for tensor in tensors:
                own = values(tensor)
                handle.write(
                    (tensor.raw() if own is None else weights.narrow(own, tensor.dtype)).tobytes()
                )
