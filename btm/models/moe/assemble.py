"""A mixture of ELMs: their feed-forward networks as experts byte for byte, the rest averaged.

Everything is streamed as an average is (btm/models/average/stream.py): memory is a few buffers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models import causal_lm, files
from btm.models import weights as wt
from btm.models.average import Settings, layout, require_same_tensors, stream
from btm.models.average.methods import combine
from btm.models.average.models import Group, Models
from btm.models.moe.classes import OUTSIDE, MoeClass, class_of
from btm.system.json_files import Json

Array = NDArray[np.float64]
SHARD_BYTES = 5 * 10**9  # of a weight file, at most
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def require_alike(folders: Sequence[Path]) -> MoeClass:
    """Find the class of mixtures that holds the ELMs of these folders.

    Raises `UserError` unless they are of one class and one shape, and such a mixture has a place
    for each of their tensors.
    """
    if len(folders) < 2:
        raise UserError("a mixture has at least two experts: name more in moe.experts")
    first = folders[0]
    configs = [causal_lm.read_config(folder / files.CONFIG) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        found = class_of(config, folder)
        if config["model_type"] != configs[0]["model_type"]:
            a, b = configs[0]["model_type"], config["model_type"]
            raise UserError(f"{first} and {folder} differ: a {a} and a {b}")
        table = wt.tensors(folder)
        _require_known(folder, table, found)
        require_same_tensors(first, folder)
        kinds = {tensor.dtype for tensor in table.values()}
        kinds |= {tensor.dtype for tensor in wt.tensors(first).values()}
        if len(kinds) > 1:
            raise UserError(
                f"{first} and {folder} differ: numbers are stored as {', '.join(sorted(kinds))}, "
                "and a mixture has one type"
            )
    return found


def _require_known(folder: Path, table: Mapping[str, wt.Tensor], moe: MoeClass) -> None:
    """Raise `UserError` for a tensor that a mixture has no place for, or one that is missing."""
    places = {*moe.shared, *moe.network}
    parts: dict[str, set[str]] = {}
    for name in table:
        found = _LAYER.fullmatch(name)
        if found is None and name in OUTSIDE:
            continue
        if found is None or found[2] not in places:
            raise UserError(f"{folder}: the tensor {name!r} has no place in a {moe.kind}")
        parts.setdefault(found[1], set()).add(found[2])
    for layer, own in parts.items():
        if missing := sorted(places - own):
            raise UserError(f"{folder}: layer {layer} has no tensor {missing[0]!r}")


def expert_tensor(moe: MoeClass, name: str, expert: int) -> str | None:
    """Name the tensor of a mixture that holds an ELM's tensor `name`; None unless it is of a
    feed-forward network.
    """
    found = _LAYER.fullmatch(name)
    if found is None or found[2] not in moe.network:
        return None
    return f"model.layers.{found[1]}.{moe.expert(found[2], expert)}"


def write(
    moe: MoeClass,
    shared: Mapping[Path, float],
    experts: Sequence[Path],
    rows_LEH: Array,
    target: Path,
    top_k: int,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Write the weights of a mixture into `target`; return each file's sha256.

    `shared` are the weights of the average of everything but feed-forward networks and routers,
    {folder: weight}; `experts` the folders whose networks are the experts, in order; `rows_LEH` the
    routers' rows by layer. The bytes depend on these and on `top_k` alone.
    """
    with _RouterFile(moe, target / ".tmp-router.safetensors", rows_LEH) as router:
        parts = _Parts(moe, shared, experts, router)
        # Scores are kept by the sha256 of weights, and those of another top_k are other scores.
        notes = {"num_experts_per_tok": str(top_k)}
        planned = layout.new_files(parts.tensors(), None, SHARD_BYTES, notes)
        threads = stream.usual_threads(sum(e.size for file in planned for e in file.entries))
        with stream.Workers(threads, "float32", alive) as workers:
            digests = {
                file.name: stream.write(file, parts, _average, target / file.name, workers)
                for file in planned
            }
    layout.write_new_index(planned, target)
    return digests


def _average(group: Group, window: stream.Window, out: stream.Array) -> None:
    combine(group.tensors, group.shares, window, out)


class _Parts(Models):
    """The tensors of the mixture by name, each an average of some of the ELMs' tensors: of one
    alone for an expert's matrices and the routers.
    """

    def __init__(
        self,
        moe: MoeClass,
        shared: Mapping[Path, float],
        experts: Sequence[Path],
        router: "_RouterFile",
    ) -> None:
        super().__init__(shared, Settings())
        self._moe = moe
        self._single = dict(router.tensors)
        for number, folder in enumerate(experts):
            for name, tensor in wt.tensors(folder).items():
                if (new := expert_tensor(moe, name, number)) is not None:
                    self._single[new] = replace(tensor, name=new)
        # A router is computed in float64 and rounded once, to what the other matrices have.
        self._stored = next(iter(self.first.values())).dtype

    def tensors(self) -> list[wt.Tensor]:
        """List every tensor of the mixture, with the dtype that it is stored in."""
        shared = [t for name, t in self.first.items() if expert_tensor(self._moe, name, 0) is None]
        own = [replace(tensor, dtype=self._stored) for tensor in self._single.values()]
        size = np.dtype(wt.FLOATS[self._stored]).itemsize
        own = [replace(t, size=int(np.prod(t.shape)) * size) for t in own]
        return [*shared, *own]

    def group(self, name: str) -> Group:
        """Collect what one tensor of the mixture is averaged of."""
        if (tensor := self._single.get(name)) is not None:
            return Group(name, (tensor,), (1.0,), (tensor.file.parent.name,))
        return super().group(name)


class _RouterFile:
    """The routers' rows as a weight file that is deleted at the end, so that they are streamed as
    everything else is.
    """

    def __init__(self, moe: MoeClass, file: Path, rows_LEH: Array) -> None:
        self.file = file
        rows = np.ascontiguousarray(rows_LEH, np.float64)
        entries: Json = {}
        for layer, rows_EH in enumerate(rows):
            begin = layer * rows_EH.nbytes
            entries[moe.router(layer)] = {
                "dtype": "F64",
                "shape": list(rows_EH.shape),
                "data_offsets": [begin, begin + rows_EH.nbytes],
            }
        file.write_bytes(wt.head(entries) + rows.tobytes())
        self.tensors = {tensor.name: tensor for tensor in wt.header(file)[0]}

    def __enter__(self) -> "_RouterFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink()
