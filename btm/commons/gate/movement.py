"""How far a model has moved from its parents, layer by layer, and whither.

δ = θ - Σ w_p θ_p is what training added to the average of the parents. Norms of δ are compared
with those of the forest's own experts; its direction with theirs, which finds copies: of a parent,
of another's expert, also when noise is added, or when it is scaled.

Everything is streamed in float64; nothing is averaged on disk. numpy alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btm.models import weights

Shares = Mapping[Path, float]  # {model folder: share}, which sum to 1
Floats = NDArray[np.float64]
_LEAST = 1e-12  # ‖δ‖/‖base‖ of a layer that did not move


@dataclass(frozen=True)
class Movement:
    """‖δ‖² and ‖base‖² of each tensor of floats."""

    moved: dict[str, float]
    base: dict[str, float]

    @property
    def ratio(self) -> float:
        """‖δ‖/‖base‖ of all tensors together."""
        return math.sqrt(sum(self.moved.values()) / (sum(self.base.values()) or 1.0))

    def logs(self) -> dict[str, float]:
        """log ‖δ‖/‖base‖ of each tensor whose base is not 0 everywhere."""
        return {
            name: math.log(max(math.sqrt(moved / self.base[name]), _LEAST))
            for name, moved in self.moved.items()
            if self.base[name]
        }


def movement(model: Path, parents: Shares) -> Movement:
    """Measure the movement of the model in a folder from the average of its parents."""
    moved, base = {}, {}
    for name, rows in _chunks(model, parents):
        squares = np.zeros(2)
        for own, begun in rows:
            squares += (np.square(own - begun).sum(), np.square(begun).sum())
        moved[name], base[name] = map(float, squares)
    return Movement(moved, base)


def cosines(model: Path, parents: Shares, others: Mapping[str, Path]) -> dict[str, float]:
    """Compute the cosine of δ of `model` with θ_e - base of each model in `others`, by name.

    0 where one of the two did not move at all.
    """
    sources = dict.fromkeys(others.values(), 1.0)
    products = {name: np.zeros(2) for name in others}
    own_square = 0.0
    tables = {path: weights.tensors(path) for path in sources}
    for tensor, rows in _chunks(model, parents):
        streams = {path: weights.chunks(table[tensor]) for path, table in tables.items()}
        kinds = {path: table[tensor].dtype for path, table in tables.items()}
        for own, begun in rows:
            moved = own - begun
            own_square += float(np.square(moved).sum())
            for name, path in others.items():
                other = weights.to_float64(next(streams[path]), kinds[path]) - begun
                products[name] += (float((moved * other).sum()), float(np.square(other).sum()))
    return {
        name: float(dot / math.sqrt(square * own_square)) if square * own_square else 0.0
        for name, (dot, square) in products.items()
    }


@dataclass(frozen=True)
class Furthest:
    """The layer whose movement is furthest above that of the experts, in standard deviations."""

    layer: str
    z: float


def furthest(found: Movement, honest: Sequence[Movement], spread: float) -> Furthest:
    """Find the layer with the greatest z-score of log ‖δ‖/‖base‖ against `honest` experts.

    z = (x - mean) / max(standard deviation, `spread`), of natural logarithms. One-sided: a layer
    that moved less does no harm. `honest` is not empty.
    """
    others = [each.logs() for each in honest]
    best = Furthest("", -math.inf)
    for name, log in found.logs().items():
        seen = np.array([logs[name] for logs in others if name in logs])
        if len(seen):
            z = float((log - seen.mean()) / max(float(seen.std()), spread))
            best = max(best, Furthest(name, z), key=lambda each: each.z)
    return best


def _chunks(model: Path, parents: Shares) -> Iterator[tuple[str, Iterator[tuple[Floats, Floats]]]]:
    """Yield (tensor, chunks of (its own elements, the average of the parents')) of floats."""
    tables = {path: weights.tensors(path) for path in parents}
    for name, tensor in weights.tensors(model).items():
        if tensor.is_float:
            theirs = {path: table[name] for path, table in tables.items()}
            yield name, _pairs(tensor, theirs, parents)


def _pairs(
    tensor: weights.Tensor, theirs: Mapping[Path, weights.Tensor], parents: Shares
) -> Iterator[tuple[Floats, Floats]]:
    streams = [(parents[path], each.dtype, weights.chunks(each)) for path, each in theirs.items()]
    for raw in weights.chunks(tensor):
        begun = np.zeros(len(raw))
        for share, dtype, chunks in streams:
            begun += share * weights.to_float64(next(chunks), dtype)
        yield weights.to_float64(raw, tensor.dtype), begun
