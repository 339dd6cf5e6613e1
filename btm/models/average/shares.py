"""Weights that sum to one, and weights of their own for some layers."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np

from btm.errors import UserError

K = TypeVar("K")


def normalise(weights: Mapping[K, float]) -> dict[K, float]:
    """Return the positive weights scaled to sum to 1; zero weights fall away."""
    total = float(sum(weights.values()))
    if not (np.isfinite(total) and total > 0 and min(weights.values()) >= 0):
        raise UserError(
            f"weights {dict(weights)} cannot be normalised: none may be negative, some must be "
            "positive"
        )
    return {key: weight / total for key, weight in weights.items() if weight > 0}


def own_weights(name: str, layers: Mapping[str, Mapping[str, float]]) -> Mapping[str, float] | None:
    """Return the weights that the last pattern of `layers` that matches a tensor's `name` gives it,
    or None.
    """
    matching = [own for pattern, own in layers.items() if fnmatchcase(name, pattern)]
    return matching[-1] if matching else None
