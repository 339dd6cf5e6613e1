"""Means over questions with 95 % intervals, by the bootstrap: of one reader, and of the difference
of two on the same questions (paired). numpy alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_DRAWS = 1000


class Interval(NamedTuple):
    """A mean, and the 95 % interval of it over other questions of the kind."""

    mean: float
    low: float
    high: float


def interval(values: NDArray[np.float64], seed: int = 0) -> Interval:
    """Draw questions with replacement, and take the middle 95 % of the means.

    Given the difference of two readers on each question it is the paired bootstrap.
    """
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(_DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
