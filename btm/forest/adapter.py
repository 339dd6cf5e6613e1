"""The file of an expert that is its parents and an adapter: the parents, by hash and weight, and
the changes of low rank of single matrices.

``adapter.safetensors`` holds for each matrix that changed its factors, ``A.<tensor>`` (rank, in)
and ``B.<tensor>`` (out, rank); its metadata are one JSON object. The model is defined by it:
average the parents as a branch does, widen to float64, add α/r · B A, round once to the dtype of
the tensor. Nothing here needs torch.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError, unknown
from btm.forest.card import Parent
from btm.forest.delta import STORABLE, contents, rewrite
from btm.models import files, low_rank, weights
from btm.models.low_rank import LowRank
from btm.system import durable
from btm.system.json_files import Json

FILE = "adapter.safetensors"
KIND = "lora"
_KEY = "btm-adapter"
_SCHEMA = 1


@dataclass(frozen=True)
class Adapter:
    """The changes that an expert adds to the average of its parents; `sha256` is that of the
    resulting weights.
    """

    parents: dict[str, Parent]
    sha256: str
    rank: int  # as asked; an imported one may have others for single matrices
    alpha: float
    targets: list[str]  # the ends of the names of the layers that change
    tensors: dict[str, LowRank]  # by the name of the stored tensor

    @property
    def parameters(self) -> int:
        """The elements of all factors."""
        return sum(change.parameters for change in self.tensors.values())

    @property
    def said(self) -> str:
        """Say in words how much changes."""
        return f"an adapter of rank {self.rank} on {len(self.tensors)} matrices"

    def facts(self, file: Path) -> Json:
        """Describe it for the card: kind, rank, alpha, sizes; `file` is where it stands."""
        return {
            "kind": KIND,
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": self.targets,
            "parents": {name: parent.sha256 for name, parent in self.parents.items()},
            "parameters": self.parameters,
            "bytes": file.stat().st_size,
        }


def write(file: Path, adapter: Adapter) -> None:
    """Publish an adapter."""
    stored: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, change in adapter.tensors.items():
        stored[f"A.{name}"] = (change.dtype, change.a)
        stored[f"B.{name}"] = (change.dtype, change.b)
    said = {
        "schema": _SCHEMA,
        "sha256": adapter.sha256,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "targets": adapter.targets,
        "parents": {name: asdict(parent) for name, parent in adapter.parents.items()},
        "layers": {
            name: {"module": c.module, "scale": c.scale, "transposed": c.transposed}
            for name, c in sorted(adapter.tensors.items())
        },
    }
    with durable.publish_file(file) as handle:
        weights.write_tensors(handle, stored, {_KEY: json.dumps(said)})


def read(file: Path) -> Adapter:
    """Read the adapter in `file`; `UserError` if it is missing, damaged, or from a newer btm."""
    if not file.is_file():
        raise UserError(f"{file}: no such file: wanted the adapter of an expert")
    try:
        found, said, parents = contents(file, _KEY, _SCHEMA)
        targets = [str(target) for target in said["targets"]]
        if not (isinstance(said["sha256"], str) and type(said["rank"]) is int):
            raise ValueError("no sha256, or no rank")
        tensors = _changes(found, said["layers"])
        alpha = float(said["alpha"])
        return Adapter(parents, said["sha256"], said["rank"], alpha, targets, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a valid adapter ({error}): damaged, get it again") from None


def _changes(stored: dict[str, weights.Tensor], layers: Json) -> dict[str, LowRank]:
    """Read the change of each tensor; `ValueError` if they are not valid."""
    if stored.keys() != {f"{part}.{name}" for part in "AB" for name in layers}:
        raise ValueError("factors of other tensors than its layers")
    made = {}
    for name, layer in layers.items():
        pair = stored[f"A.{name}"], stored[f"B.{name}"]
        a, b = (factor(each) for each in pair)
        if not isinstance(layer["module"], str) or type(layer["transposed"]) is not bool:
            raise ValueError(f"{name!r} has no layer")
        scale, dtype = float(layer["scale"]), pair[0].dtype
        made[name] = checked(
            name, LowRank(layer["module"], a, b, scale, layer["transposed"], dtype)
        )
    return made


def factor(tensor: weights.Tensor) -> NDArray[np.float32]:
    """Read a factor; `ValueError` unless it is a matrix of finite floats."""
    if tensor.dtype not in low_rank.FLOATS or len(tensor.shape) != 2 or 0 in tensor.shape:
        raise ValueError(f"{tensor.name!r} is {tensor.dtype} of shape {list(tensor.shape)}")
    values = np.empty(tensor.shape, np.float32)
    weights.widen(tensor.raw(), tensor.dtype, values.reshape(-1))
    if not np.isfinite(values).all():
        raise ValueError(f"{tensor.name!r} has a number that is not finite")
    return values


def checked(name: str, change: LowRank) -> LowRank:
    """Return a change; `ValueError` if its factors do not fit, or its scale is no number."""
    if change.b.shape[1] != change.rank:
        raise ValueError(f"{name!r} has ranks {change.rank} and {change.b.shape[1]}")
    if not np.isfinite(change.scale):
        raise ValueError(f"{name!r} has scale {change.scale}")
    return change


def require_fits(tensors: dict[str, LowRank], folder: Path, base: str) -> None:
    """Raise `UserError` unless changes are of matrices of the model in `folder`, called `base`."""
    found = weights.tensors(folder)
    for name, change in tensors.items():
        if name not in found:
            raise unknown("tensor", name, found, base)
        if found[name].shape != change.shape or found[name].dtype not in STORABLE:
            raise UserError(
                f"an adapter of another base than {base}: it changes {name!r} as "
                f"{list(change.shape)}, which is {list(found[name].shape)} there"
            )


def apply(adapter: Adapter, folder: Path) -> None:
    """Add an adapter to the weights in an unpublished `folder`, the average of its parents.

    Raises `UserError` if the tensors are not those that it was made for, or if the result has
    another sha256.
    """
    require_fits(adapter.tensors, folder, "its parents")
    add(adapter.tensors, folder, folder)
    if (made := weights.sha256(folder)) != adapter.sha256:
        raise UserError(
            f"the parents and the adapter give weights of sha256 {made[:12]}, wanted "
            f"{adapter.sha256[:12]}: it is damaged"
        )


def add(tensors: dict[str, LowRank], source: Path, target: Path) -> None:
    """Write the weight files of `source` into `target` with these changes added."""

    def changed(tensor: weights.Tensor) -> NDArray[Any] | None:
        change = tensors.get(tensor.name)
        return None if change is None else low_rank.added(tensor.raw(), tensor.dtype, change)

    rewrite(source, target, changed)
    if source != target and (source / files.INDEX).is_file():
        shutil.copyfile(source / files.INDEX, target / files.INDEX)
