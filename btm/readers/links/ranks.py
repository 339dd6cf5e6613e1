"""Filtered ranks of links, ties shared: numpy alone."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HITS = (1, 3, 10)


def realistic(
    scores_BN: NDArray[np.floating], right_B: Sequence[int], known: Sequence[Collection[int]]
) -> Floats:
    """Rank the right entity of each of B questions among N, (B,).

    Other entities that are `known` to be right are left out (filtered; Bordes et al. 2013). A rank
    is the mean of the best and the worst that ties allow (Berrendorf et al., arXiv 2002.06914).
    """
    ranks = np.empty(len(right_B))
    for row, (scores_N, right, others) in enumerate(zip(scores_BN, right_B, known, strict=True)):
        own = scores_N[right]
        left_out = scores_N[[n for n in others if n != right]]
        above = (scores_N > own).sum() - (left_out > own).sum()
        tied = (scores_N == own).sum() - (left_out == own).sum()  # itself included
        ranks[row] = above + (tied + 1) / 2
    return ranks


def metrics(ranks_B: Floats) -> dict[str, Floats]:
    """Compute the reciprocal rank and the hits of each question."""
    hits = {f"Hits@{k}": (ranks_B <= k).astype(float) for k in HITS}
    return {"MRR": 1 / ranks_B, **hits}
