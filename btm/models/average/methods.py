"""The methods of averaging (`average.method`): what each computes of one tensor.

Legend: θ_j model j of k, w_j its weight as given, w̃_j the weights scaled to sum to 1, θ_0 the
base, δ_j = θ_j − θ_0, λ the setting `scale`. A method may first measure a whole tensor (a few
numbers), then it computes window by window.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from btm.config.average import refuse_negative
from btm.errors import UserError, unknown
from btm.models.average import sparse
from btm.models.average.models import Group
from btm.models.average.settings import Settings
from btm.models.average.stream import MEASURE, Array, Window

COLLINEAR = 0.9995  # cosine beyond which slerp is a straight line


@dataclass(frozen=True)
class Method:
    """One method: `measure` reduces a whole tensor to the numbers that `apply` needs."""

    apply: Callable[[Group, Settings, Any, Window, Array], None]
    measure: Callable[[Group, Settings, Window], Any] | None = None
    needs_base: bool = False
    models: tuple[int, int | None] = (1, None)  # how many it takes, the base not counted


def check(settings: Settings, weights: Mapping[Path, float]) -> None:
    """Raise `UserError` unless the method takes models of these `weights` {folder: weight}, and
    these settings.
    """
    models = sum(weight != 0 for weight in weights.values())
    if settings.method not in METHODS:
        raise unknown("average.method", settings.method, METHODS)
    negative = {folder.name: weight for folder, weight in weights.items() if weight < 0}
    refuse_negative(settings.method, negative)
    method = METHODS[settings.method]
    least, most = method.models
    if method.needs_base and settings.base is None:
        raise UserError(
            f"average.method={settings.method} needs average.base, the model that differences "
            "are taken from"
        )
    if models < least or (most is not None and models > most):
        wanted = f"{least}" if least == most else f"at least {least}"
        raise UserError(
            f"average.method={settings.method} takes {wanted} models beside its base; "
            f"{models} were given"
        )
    if settings.method == "fisher" and not settings.importance:
        raise UserError("average.method=fisher needs the Fisher information of every model")


def _linear(group: Group, settings: Settings, recipe: Any, window: Window, out: Array) -> None:
    """θ = Σ_j w̃_j θ_j (BTM; model soups, arXiv 2203.05482)."""
    combine(group.tensors, group.shares, window, out)


def _task_arithmetic(
    group: Group, settings: Settings, recipe: Any, window: Window, out: Array
) -> None:
    """θ = θ_0 + λ Σ_j w_j δ_j (task arithmetic, arXiv 2212.04089); w_j < 0 negates a task."""
    base = _base(group, window)
    out[:] = 0
    for tensor, weight in zip(group.tensors, group.weights, strict=True):
        delta = _less_base(window.read(tensor), base)
        np.multiply(delta, delta.dtype.type(weight), out=delta)
        np.add(out, delta, out=out)
    _add_to_base(out, base, settings.scale)


def _angle(group: Group, settings: Settings, window: Window) -> tuple[float, float]:
    """Compute slerp's two coefficients: of the base and of the other model."""
    assert group.base is not None
    gram = _gram([group.base, *group.tensors], None, window)
    norms = np.sqrt(np.diag(gram))
    norms[norms <= 1e-8] = 1.0  # a tensor of zeros has no direction
    cosine = float(np.clip(gram[0, 1] / (norms[0] * norms[1]), -1, 1))
    t = settings.t
    if abs(cosine) > COLLINEAR:
        return 1 - t, t
    angle = np.arccos(cosine)
    return float(np.sin((1 - t) * angle) / np.sin(angle)), float(np.sin(t * angle) / np.sin(angle))


def _slerp(group: Group, settings: Settings, recipe: Any, window: Window, out: Array) -> None:
    """θ = (sin((1−t)φ) θ_0 + sin(tφ) θ_1) / sin φ, for each tensor (Shoemake 1985).

    cos φ = θ_0·θ_1 / |θ_0||θ_1|.
    """
    assert group.base is not None
    combine((group.base, *group.tensors), list(recipe), window, out)


def _interpolation(group: Group, settings: Settings, window: Window) -> float:
    """Compute model_stock's interpolation factor t for one tensor."""
    assert group.base is not None
    gram, k = _gram(list(group.tensors), group.base, window), len(group.tensors)
    norms = np.sqrt(np.diag(gram))
    cosines = np.clip(gram / np.maximum(np.outer(norms, norms), 1e-6), -1, 1)
    cosine = float(cosines[np.triu_indices(k, 1)].mean())
    below = 1 + (k - 1) * cosine
    return 0.0 if abs(below) < 1e-6 else k * cosine / below


def _model_stock(group: Group, settings: Settings, recipe: Any, window: Window, out: Array) -> None:
    """θ = t mean_j θ_j + (1−t) θ_0, t = k c / (1 + (k−1) c) (arXiv 2403.19522).

    c is the mean cosine between the δ_j.
    """
    assert group.base is not None
    k = len(group.tensors)
    combine((group.base, *group.tensors), [1 - recipe, *[recipe / k] * k], window, out)


def _fisher(group: Group, settings: Settings, recipe: Any, window: Window, out: Array) -> None:
    """θ = Σ_j w_j F_j θ_j / Σ_j w_j F_j, elementwise (arXiv 2111.09832).

    F_j is the diagonal Fisher information. Where every F_j is 0: the linear average.
    """
    members = [
        member
        for member in zip(group.tensors, group.importance, group.shares, strict=True)
        if member[2] != 0
    ]
    # Squares of gradients span more than float32 does: only their ratios are summed.
    most = window.spare(3)
    most[:] = 0
    for _, importance, _ in members:
        np.maximum(most, window.read(importance, into=2), out=most)
    empty = most == 0
    most[empty] = 1
    total = window.spare(1)
    total[:] = 0
    out[:] = 0
    for tensor, importance, weight in members:
        share = window.read(importance, into=2)
        np.divide(share, most, out=share)
        np.multiply(share, share.dtype.type(weight), out=share)
        np.add(total, share, out=total)
        np.multiply(window.read(tensor), share, out=share)
        np.add(out, share, out=out)
    np.divide(out, total, out=out, where=~empty)
    if empty.any():
        mean = window.spare(1)
        combine(group.tensors, group.shares, window, mean)
        np.copyto(out, mean, where=empty)


def combine(tensors: Any, coefficients: list[float], window: Window, out: Array) -> None:
    """Put Σ_j c_j θ_j into `out`; a model whose coefficient is 0 is not read."""
    begun = False
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        if coefficient == 0:
            continue
        piece = window.read(tensor)
        np.multiply(piece, piece.dtype.type(coefficient), out=piece if begun else out)
        if begun:
            np.add(out, piece, out=out)
        begun = True
    if not begun:
        out[:] = 0


def _gram(tensors: list[Any], base: Any, window: Window) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Compute the inner products, (k, k) float64, of `tensors` or of their differences from `base`.

    The number of elements per step does not depend on the size of a read, so the sums are always
    made in one order.
    """
    k = len(tensors)
    step = max(256, MEASURE // (k + 1))
    size = int(np.prod(tensors[0].shape, dtype=np.int64))
    total, rows = np.zeros((k, k)), np.empty((k, min(step, size)))
    window.sum_in([*tensors, *([base] if base else [])])
    for _ in window.over(size, step):
        part = rows[:, : window.count]
        origin = window.read(base, into=1) if base else 0
        for row, tensor in zip(part, tensors, strict=True):
            np.subtract(window.read(tensor), origin, out=row)
        total += part @ part.T
    return total


def _base(group: Group, window: Window) -> Array:
    """Read the base's elements into a buffer of their own."""
    assert group.base is not None
    return window.read(group.base, into=1)


def _less_base(piece: Array, base: Array) -> Array:
    return np.subtract(piece, base, out=piece)


def _add_to_base(out: Array, base: Array, scale: float) -> None:
    if scale != 1:
        np.multiply(out, out.dtype.type(scale), out=out)
    np.add(out, base, out=out)


METHODS: dict[str, Method] = {
    "linear": Method(_linear),
    "slerp": Method(_slerp, _angle, needs_base=True, models=(1, 1)),
    "task_arithmetic": Method(_task_arithmetic, needs_base=True),
    "ties": Method(sparse.ties, sparse.largest, needs_base=True),
    "dare_ties": Method(sparse.dare_ties, sparse.dropped, needs_base=True),
    "dare_linear": Method(sparse.dare_linear, sparse.dropped, needs_base=True),
    "breadcrumbs": Method(sparse.breadcrumbs, sparse.middle, needs_base=True),
    "model_stock": Method(_model_stock, _interpolation, needs_base=True, models=(2, None)),
    "fisher": Method(_fisher),
}
