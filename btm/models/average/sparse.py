"""Methods that keep a part of each model's difference from the base: ties, dare, breadcrumbs.

Legend: δ_j = θ_j − θ_0 in float32, m_j the mask of its elements that are kept, w_j the weight of
model j as given, λ the setting `scale`, d the setting `density`. The elected sign is that of Σ_j
w_j m_j δ_j, plus where that is 0.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.models import weights as wt
from btm.models.average.models import Group
from btm.models.average.settings import Settings
from btm.models.average.stream import Array, Window

Bounds = list[tuple[float, float]]  # of |δ_j|: what is kept, both ends included


def ties(group: Group, settings: Settings, recipe: Bounds, window: Window, out: Array) -> None:
    """θ = θ_0 + λ Σ_j w_j m_j δ_j / Σ_j w_j m_j (TIES, arXiv 2306.01708).

    Both sums run over the models that have the elected sign. m_j keeps the d largest |δ_j| of a
    tensor, at least one; equal ones at the threshold are all kept.
    """
    _elect(group, settings, _between(group, recipe), window, out, divide=True)


def dare_ties(
    group: Group, settings: Settings, recipe: list[float], window: Window, out: Array
) -> None:
    """θ = θ_0 + λ Σ_j w_j m_j δ_j / d (DARE + TIES, arXiv 2311.03099).

    The sum runs over the models that have the elected sign; m_j keeps with probability d.
    """
    _elect(group, settings, _at_random(group, settings, recipe), window, out, divide=False)


def dare_linear(
    group: Group, settings: Settings, recipe: list[float], window: Window, out: Array
) -> None:
    """θ = θ_0 + λ Σ_j w_j m_j δ_j / d, m_j kept with probability d (DARE, arXiv 2311.03099)."""
    _add(group, settings, _at_random(group, settings, recipe), window, out)


def breadcrumbs(
    group: Group, settings: Settings, recipe: Bounds, window: Window, out: Array
) -> None:
    """θ = θ_0 + λ Σ_j w_j m_j δ_j (Model Breadcrumbs, arXiv 2312.06795).

    m_j drops the γ largest |δ_j|, then the smallest, and keeps the share d.
    """
    _add(group, settings, _between(group, recipe), window, out)


def largest(group: Group, settings: Settings, window: Window) -> Bounds:
    """Measure the bounds of |δ_j| that ties keeps."""
    size = _size(group)
    kept = max(1, int(settings.density * size))
    if settings.density >= 1 or not size:
        return [(0.0, np.inf)] * len(group.tensors)
    return [(_ranked(group, tensor, [size - kept], window)[0], np.inf) for tensor in group.tensors]


def middle(group: Group, settings: Settings, window: Window) -> Bounds:
    """Measure the bounds of |δ_j| that breadcrumbs keeps."""
    size = _size(group)
    kept, top = int(settings.density * size), int(settings.gamma * size)
    if settings.density >= 1 or not size:
        return [(0.0, np.inf)] * len(group.tensors)
    if not kept:
        return [(np.inf, 0.0)] * len(group.tensors)
    low = max(0, size - kept - top)
    ranked = (_ranked(group, tensor, [low, low + kept - 1], window) for tensor in group.tensors)
    return [(smallest, largest) for smallest, largest in ranked]


def dropped(group: Group, settings: Settings, window: Window) -> list[float]:
    """Measure dare's factor for each model's kept elements.

    It is 1/d, or the ratio that restores Σ|δ_j| (`rescale=l1`), or 1.
    """
    if settings.rescale == "none" or settings.density >= 1:
        return [1.0] * len(group.tensors)
    if settings.rescale == "density":
        return [1 / settings.density] * len(group.tensors)
    factors = []
    for j in range(len(group.tensors)):
        before = after = 0.0
        for _ in _walk(group, window):
            size = np.abs(_delta(group, j, window, window.read(_base_of(group), into=1)))
            before += float(size.sum(dtype=np.float64))
            after += float(size[_drawn(group, settings, j, window)].sum(dtype=np.float64))
        factors.append(1.0 if before < 1e-7 or after < 1e-7 else before / after)
    return factors


def _elect(
    group: Group, settings: Settings, keep: Any, window: Window, out: Array, *, divide: bool
) -> None:
    """Add to the base the sum, or the mean (`divide`), of kept elements of the elected sign."""
    base = window.read(_base_of(group), into=1)
    elected = window.spare(2)
    elected[:] = 0
    for j in range(len(group.tensors)):
        np.add(elected, keep(j, window, _delta(group, j, window, base)), out=elected)
    plus, total = elected >= 0, window.spare(3)
    total[:] = 0
    out[:] = 0
    for j, weight in enumerate(group.weights):
        part = keep(j, window, _delta(group, j, window, base))
        agrees = np.where(plus, part > 0, part < 0)
        np.add(out, part, out=out, where=agrees)
        np.add(total, total.dtype.type(weight), out=total, where=agrees)
    if divide:
        np.divide(out, total, out=out, where=total != 0)
    _onto(base, settings, out)


def _add(group: Group, settings: Settings, keep: Any, window: Window, out: Array) -> None:
    """Add the sum of kept elements to the base."""
    base = window.read(_base_of(group), into=1)
    out[:] = 0
    for j in range(len(group.tensors)):
        np.add(out, keep(j, window, _delta(group, j, window, base)), out=out)
    _onto(base, settings, out)


def _onto(base: Array, settings: Settings, out: Array) -> None:
    if settings.scale != 1:
        np.multiply(out, out.dtype.type(settings.scale), out=out)
    np.add(out, base, out=out)


def _between(group: Group, bounds: Bounds) -> Any:
    """Return a function that masks δ_j by magnitude and scales it by w_j, in place."""

    def keep(j: int, window: Window, delta: Array) -> Array:
        size = np.abs(delta).astype(np.float32, copy=False)
        low, high = bounds[j]
        delta[(size < low) | (size > high)] = 0
        return np.multiply(delta, delta.dtype.type(group.weights[j]), out=delta)

    return keep


def _at_random(group: Group, settings: Settings, factors: list[float]) -> Any:
    """Return a function that masks δ_j at random and scales it by w_j and its factor, in place."""

    def keep(j: int, window: Window, delta: Array) -> Array:
        if settings.density < 1:
            delta[~_drawn(group, settings, j, window)] = 0
        np.multiply(delta, delta.dtype.type(factors[j]), out=delta)
        return np.multiply(delta, delta.dtype.type(group.weights[j]), out=delta)

    return keep


def _drawn(group: Group, settings: Settings, j: int, window: Window) -> NDArray[np.bool_]:
    """Draw model j's mask from the seed, its name, the tensor's name and the elements' places."""
    name = f"{settings.seed}/{group.labels[j]}/{group.name}"
    return random_mask(name, window.start, window.count, settings.density)


def random_mask(name: str, start: int, count: int, density: float) -> NDArray[np.bool_]:
    """Draw the mask of elements `start` … `start + count`: True with probability `density`.

    The probability is exact to 2⁻³². Element i's number is the i-th of the Philox generator whose
    key is the hash of `name`.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=key)
    generator.advance(start // 8)  # one step of Philox gives eight numbers of 32 bits
    skip = start % 8
    drawn = generator.random_raw((skip + count + 1) // 2 + 4).view(np.uint32)[skip : skip + count]
    return drawn < np.uint64(round(density * 2**32))


def _ranked(group: Group, tensor: wt.Tensor, ranks: list[int], window: Window) -> list[float]:
    """Find |δ| at each of `ranks`, counted from the smallest (0), exactly.

    The bits of a float32 that is not negative are in the order of the numbers, so two histograms,
    one of the upper half of the bits and one of the lower half within the bin that holds the rank,
    find the element.
    """
    upper = np.zeros(1 << 16, np.int64)
    for bits in _magnitudes(group, tensor, window):
        upper += np.bincount(bits >> 16, minlength=1 << 16)
    ends = np.cumsum(upper)
    bins = [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
    lower = {b: np.zeros(1 << 16, np.int64) for b in bins}
    for bits in _magnitudes(group, tensor, window):
        high = bits >> 16
        for b, counts in lower.items():
            counts += np.bincount(bits[high == b] & 0xFFFF, minlength=1 << 16)
    found = []
    for rank, b in zip(ranks, bins, strict=True):
        rest = rank - int(ends[b] - upper[b])
        low = int(np.searchsorted(np.cumsum(lower[b]), rest, side="right"))
        found.append(float(np.array([(b << 16) | low], np.uint32).view(np.float32)[0]))
    return found


def _magnitudes(group: Group, tensor: wt.Tensor, window: Window) -> Any:
    """Yield the bits of |δ| in float32, a window at a time."""
    for _ in _walk(group, window):
        base = window.read(_base_of(group), into=1)
        piece = window.read(tensor)
        delta = np.subtract(piece, base, out=piece).astype(np.float32, copy=False)
        yield np.abs(delta).view(np.uint32)


def _walk(group: Group, window: Window) -> Any:
    window.sum_in([*group.tensors, _base_of(group)])
    return window.over(_size(group))


def _delta(group: Group, j: int, window: Window, base: Array) -> Array:
    piece = window.read(group.tensors[j])
    return np.subtract(piece, base, out=piece)


def _base_of(group: Group) -> wt.Tensor:
    assert group.base is not None
    return group.base


def _size(group: Group) -> int:
    return int(np.prod(group.tensors[0].shape, dtype=np.int64))
