"""How two models differ: what their cards say, and how far their tensors are apart, in constant
memory.

The distance of tensors is ‖a - b‖ / ‖b‖ (L2), of a module that of all its tensors together.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.forest.card import Card
from btm.forest.forest import Forest
from btm.forest.models import Model, find_model, own_model
from btm.forest.paths import DERIVED
from btm.models import average as averaging
from btm.models import weights as wt
from btm.report.tables import TableRow


@dataclass(frozen=True)
class Side:
    """One of two models: an ELM, an average, a folder, or the weighted average of several that was
    never written.
    """

    label: str
    shares: dict[Path, float]
    card: Card | None

    @property
    def tensors(self) -> dict[str, wt.Tensor]:
        """Its tensors by name, those of the first folder where it is an average."""
        return wt.tensors(next(iter(self.shares)))


@dataclass(frozen=True)
class Difference:
    """What differs between two models."""

    one: Side
    other: Side
    fields: list[TableRow]
    tensors: list[TableRow]
    distance: float  # of all tensors that both have


def compare(
    forest: Forest,
    name: str,
    against: str | None,
    by: str,
    told: Callable[[int], None] = lambda read: None,
) -> Difference:
    """Compare a model of the forest with another or a folder; with what it began with where
    `against` is None.
    """
    one = side(own_model(forest, name))
    other = beginning(forest, one) if against is None else side(find_model(forest, against))
    sums = list(_sums(one, other, told))
    both = [entry for entry in sums if entry[2] is not None]
    whole = _distance(sum(e[2] for e in both if e[2]), sum(e[3] for e in both if e[3]))
    return Difference(one, other, _fields(one.card, other.card), _rows(sums, by), whole)


def side(model: Model) -> Side:
    """Return a model as one of the two that are compared; the forest's own average is
    ``averages/NAME``.
    """
    place = model.path.parent.name
    own = place in DERIVED and ":" not in model.name and model.kind != "folder"
    label = f"{place}/{model.path.name}" if own else model.name
    return Side(label, {model.path: 1.0}, model.card)


def beginning(forest: Forest, one: Side) -> Side:
    """Compute the weighted average of an expert's parents, with which it began."""
    card = one.card
    if card is None or not card.parents:
        raise UserError(
            f"{one.label} is a root and began with nothing of this forest: give against=NAME"
        )
    for name, parent in card.parents.items():
        if forest[name].card.sha256 != parent.sha256:
            raise UserError(
                f"{one.label} began with another {name!r} than stands there now: give against=NAME"
            )
    shares = averaging.normalise({name: parent.weight for name, parent in card.parents.items()})
    label = "the average of its parents" if len(shares) > 1 else f"its parent {next(iter(shares))}"
    return Side(label, {forest[name].path: share for name, share in shares.items()}, None)


Sums = tuple[str, str, float | None, float | None, float]  # tensor, shape, Σ(a-b)², Σb², max |a-b|


def _sums(one: Side, other: Side, told: Callable[[int], None]) -> Iterator[Sums]:
    ours, theirs = one.tensors, other.tensors
    parts = [(wt.tensors(path), share) for path, share in other.shares.items()]
    for name in [*ours, *(n for n in theirs if n not in ours)]:
        if name not in theirs or name not in ours:
            yield name, f"only in {one.label if name in ours else other.label}", None, None, 0.0
            continue
        a = ours[name]
        if a.shape != theirs[name].shape:
            yield name, f"{list(a.shape)} against {list(theirs[name].shape)}", None, None, 0.0
            continue
        squares, norm, largest = 0.0, 0.0, 0.0
        for chunk, base in zip(
            wt.chunks(a), _mean([(t[name], share) for t, share in parts]), strict=True
        ):
            apart = _numbers(chunk, a) - base
            squares += float(apart @ apart)
            norm += float(base @ base)
            largest = max(largest, float(np.abs(apart).max(initial=0.0)))
        told(a.size)
        yield name, "×".join(map(str, a.shape)) or "scalar", squares, norm, largest


def _mean(parts: list[tuple[wt.Tensor, float]]) -> Iterator[NDArray[np.float64]]:
    """Yield the weighted mean of one tensor of several models, a chunk at a time."""
    for pieces in zip(*(wt.chunks(tensor) for tensor, _ in parts), strict=True):
        base = _numbers(pieces[0], parts[0][0])
        change = np.zeros_like(base)
        for piece, (tensor, share) in zip(pieces[1:], parts[1:], strict=True):
            change += share * (_numbers(piece, tensor) - base)
        yield base + change


def _numbers(chunk: NDArray[Any], tensor: wt.Tensor) -> NDArray[np.float64]:
    return wt.to_float64(chunk, tensor.dtype) if tensor.is_float else chunk.astype(np.float64)


def _rows(sums: list[Sums], by: str) -> list[TableRow]:
    """Return a row for each tensor, or for each module: all tensors but for the last part of their
    names.
    """
    groups: dict[str, list[Sums]] = {}
    for entry in sums:
        module = entry[0].rpartition(".")[0] or entry[0]
        groups.setdefault(entry[0] if by == "tensor" else module, []).append(entry)
    return [_row(name, by, entries) for name, entries in groups.items()]


def _row(name: str, by: str, entries: list[Sums]) -> TableRow:
    both = [
        (squares, norm)
        for _, _, squares, norm, _ in entries
        if squares is not None and norm is not None
    ]
    distance = _distance(sum(s for s, _ in both), sum(n for _, n in both)) if both else None
    shapes = "; ".join(shape for _, shape, *_ in entries)
    return {by: name, "shape": shapes, "distance": distance, "largest": max(e[4] for e in entries)}


def _distance(squares: float, norm: float) -> float:
    """Return ‖a - b‖ / ‖b‖; 0 for equals, infinite where only b is 0."""
    if squares == 0:
        return 0.0
    return math.sqrt(squares / norm) if norm else math.inf


def _fields(one: Card | None, other: Card | None) -> list[TableRow]:
    if one is None or other is None:
        return []
    ours, theirs = _flat(one.to_json()), _flat(other.to_json())
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [
        {"field": key, "one": ours.get(key), "other": theirs.get(key)}
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
