"""Changes of low rank of a model's matrices (LoRA, arXiv 2106.09685): W = W_0 + s · B A.

A is (rank, in), B (out, rank), s the scale, α/r in the paper. Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.models import weights

FLOATS = ("F32", "F16", "BF16")  # dtypes of a factor


@dataclass(frozen=True)
class LowRank:
    """The change of one matrix; both factors are float32 here, of values that `dtype` holds."""

    module: str  # the layer whose weight changes, as transformers names it
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float
    transposed: bool = False  # the matrix is stored (in, out), as in GPT-2
    dtype: str = "F32"

    @property
    def rank(self) -> int:
        """The rows of A and columns of B."""
        return len(self.a)

    @property
    def parameters(self) -> int:
        """The elements of both factors."""
        return self.a.size + self.b.size

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix as it is stored."""
        out, into = len(self.b), self.a.shape[1]
        return (into, out) if self.transposed else (out, into)

    def product(self) -> NDArray[np.float64]:
        """Compute s · B A in the shape of the stored matrix, float64.

        Its terms are added one after the other, so that every machine gets the same bits.
        """
        total = np.zeros((len(self.b), self.a.shape[1]))
        for column, row in zip(self.b.T.astype(np.float64), self.a.astype(np.float64), strict=True):
            total += np.multiply.outer(column, row)
        total *= self.scale
        return total.T if self.transposed else total


def added(raw: NDArray[Any], dtype: str, change: LowRank) -> NDArray[np.float64]:
    """Add a change to the stored elements `raw` (flat, of `dtype`) in float64."""
    return weights.to_float64(raw, dtype) + change.product().ravel()


def average(models: Sequence[tuple[float, Mapping[str, LowRank]]]) -> dict[str, LowRank]:
    """Average changes exactly: Σ_j w_j s_j B_j A_j for each matrix, weights as given.

    The factors are stacked, A = [A_1; A_2; …] and B = [w_1 s_1 B_1, w_2 s_2 B_2, …], so the rank
    is the sum of the ranks. The averages of the factors would give another product.
    """
    found: dict[str, LowRank] = {}
    for name in sorted({name for _, changes in models for name in changes}):
        parts = [(weight, changes[name]) for weight, changes in models if name in changes]
        b = [(weight * part.scale * part.b.astype(np.float64)) for weight, part in parts]
        found[name] = LowRank(
            parts[0][1].module,
            np.concatenate([part.a for _, part in parts]),
            np.concatenate(b, axis=1).astype(np.float32),
            1.0,
            parts[0][1].transposed,
        )
    return found
