"""Weights of models: scaled to sum to 1, and set for single layers."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np

from btm.errors import UserError

K = TypeVar("K")


def normalise(weights: Mapping[K, float]) -> dict[K, float]:
    """Scale the positive weights to sum to 1 and drop the zeros."""
    total = float(sum(weights.values()))
    if not (np.isfinite(total) and total > 0 and min(weights.values()) >= 0):
        raise UserError(
            f"weights {dict(weights)} cannot be normalised: none may be negative, "
            "some must be positive"
        )
    return {key: weight / total for key, weight in weights.items() if weight > 0}


def require_usable(weights: Mapping[K, float]) -> None:
    """Raise `UserError` unless all weights are finite and one is not 0."""
    if not np.isfinite(list(weights.values())).all() or not any(weights.values()):
        raise UserError(f"weights {dict(weights)}: wanted finite numbers, one of them not 0")


def own_weights(name: str, layers: Mapping[str, Mapping[str, float]]) -> Mapping[str, float] | None:
    """Find the weights of the last pattern in `layers` that matches the tensor `name`, or None."""
    matching = [own for pattern, own in layers.items() if fnmatchcase(name, pattern)]
    return matching[-1] if matching else None
