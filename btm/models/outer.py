"""The mathematics of several machines that train one model: DiLoCo (arXiv 2311.08105, algorithm 1).

In a round each machine i trains from the same point θ and ends at θ_i. Its δ_i = θ_i - θ travels in
8 bits; what rounding took away is added to its next one (error feedback, arXiv 1901.09847). The
outer gradient is g = -Σ_i n_i δ_i / Σ_i n_i over the tokens n_i, and the outer step is SGD with
Nesterov momentum as in torch:

    m ← μ m + g        θ ← θ - η (g + μ m)

All is elementwise, in float64 and in a fixed order, so equal inputs give equal bytes anywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btm.models import blockwise

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Outer:
    """The outer optimizer: rate η and momentum μ; 0.7 and 0.9 in the paper."""

    lr: float
    momentum: float


def shares(tokens: Sequence[int]) -> list[float]:
    """Return the weight of each contribution: its share of all tokens."""
    total = sum(tokens)
    return [count / total for count in tokens]


def gradient(weighted: Iterable[tuple[float, NDArray[np.floating]]]) -> Doubles:
    """Return the outer gradient (n,) of pairs of a share and a difference δ (n,), at least one."""
    pairs = iter(weighted)
    share, moved = next(pairs)
    total = -share * moved.astype(np.float64)
    for share, moved in pairs:
        total -= share * moved.astype(np.float64)
    return total


def step(
    point: Doubles, momentum: Doubles, found: Doubles, outer: Outer
) -> tuple[Doubles, Doubles]:
    """Return the next point and momentum, both (n,), after the outer gradient `found` (n,)."""
    # Rounded before it is used: the next round has what was stored.
    fresh = (outer.momentum * momentum + found).astype(np.float32).astype(np.float64)
    return point - outer.lr * (found + outer.momentum * fresh), fresh


def compensated(
    moved: Doubles, residual: Doubles, block: int
) -> tuple[blockwise.Codes, blockwise.Floats, Doubles]:
    """Quantise a difference (n,) and the residual of the one before; return codes, scales and the
    residual that is left.
    """
    wanted = moved + residual
    codes, absmax = blockwise.quantise(wanted, block)
    return codes, absmax, wanted - blockwise.dequantise(codes, absmax, block)
