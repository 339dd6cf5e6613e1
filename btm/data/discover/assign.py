"""Balanced assignment of documents to clusters of equal size (BASE layers, arXiv 2103.16716)."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SOFTNESS = (0.1, 0.03, 0.01, 0.003, 0.001)  # relative to the scale of the scores
_STEPS = 10  # of Newton's method, for each softness
_MISSED = 0.002  # relative error of a share at which the next softness gains more
_RIDGE = 1e-6  # keeps the Hessian invertible: it is blind to adding one number to all prices
_SHORTEST = 1e-3  # part of Newton's step that is tried
_SAME = 1e-12  # differences below this part of the scale of the scores are rounding


def balanced_assignment(scores_DK: ArrayLike) -> NDArray[np.int64]:
    """Assign each document, (D,), to a cluster so that Σ_d scores[d, cluster of d] is largest.

    Sizes differ by one at most. Where K does not divide D, the first D mod K clusters hold one
    document more, and the sum is the largest for these sizes: with the surplus in other clusters it
    may be larger. This is the linear assignment of BASE layers (equation 3). Its dual gives every
    cluster a price: a document takes the cluster of highest score less price. The dual
    is smoothed, less and less, and solved by Newton's method (the assignment becomes optimal
    transport with entropy). Under these prices nearly every cluster gets its share of the
    documents; the surplus of a cluster moves to clusters with room, along the cheapest path
    (successive shortest paths: Ahuja, Magnanti and Orlin, Network Flows, chapter 9), which is
    exact. Tests hold it to scipy's optimum.
    """
    scores = np.asarray(scores_DK, np.float64)
    if scores.ndim != 2 or not scores.shape[1] or not np.isfinite(scores).all():
        raise ValueError(f"scores have shape {scores.shape}; wanted finite (documents, clusters)")
    D, K = scores.shape
    shares = np.full(K, D // K) + (np.arange(K) < D % K)
    scale = float(np.ptp(scores)) if D else 0.0
    prices = np.zeros(K)
    if scale and 1 < K <= D:
        for softness in _SOFTNESS:
            prices = _newton(scores, shares, prices, softness * scale)
    return _even_out(scores, shares, (scores - prices).argmax(axis=1), scale)


def _newton(scores: Array, shares: NDArray[Any], prices: Array, soft: float) -> Array:
    """Find the prices, (K,), that minimise the smoothed dual.

    It is Σ_d soft log Σ_k exp((scores − prices) / soft) + shares · prices.
    """

    def demand(prices: Array) -> tuple[float, Array]:
        logits = (scores - prices) / soft
        top = logits.max(axis=1, keepdims=True)
        logits -= top
        wanted = np.exp(logits, out=logits)
        total = wanted.sum(axis=1, keepdims=True)
        wanted /= total
        return soft * float((np.log(total) + top).sum()) + float(shares @ prices), wanted

    value, wanted = demand(prices)
    for _ in range(_STEPS):
        sums = wanted.sum(axis=0)
        slope = shares - sums
        if np.abs(slope).max() <= _MISSED * len(scores) / len(shares):
            break
        curve = (np.diag(sums) - wanted.T @ wanted) / soft
        curve += np.eye(len(shares)) * (_RIDGE * curve.trace() / len(shares) + 1e-12)
        step = np.linalg.solve(curve, slope)
        length = 1.0
        while True:
            new_value, new_wanted = demand(prices - length * step)
            if new_value <= value - 1e-4 * length * float(slope @ step):
                break
            length /= 4
            if length < _SHORTEST:
                return prices
        prices, value, wanted = prices - length * step, new_value, new_wanted
    return prices


def _even_out(
    scores: Array, shares: NDArray[Any], chosen: NDArray[np.int64], scale: float
) -> NDArray[np.int64]:
    """Move documents until sizes are `shares`, at the lowest cost.

    `chosen` must be the best assignment for its own sizes; so is the result.
    """
    K = len(shares)
    room = shares - np.bincount(chosen, minlength=K)
    cost, mover = np.full((K, K), np.inf), np.zeros((K, K), np.int64)
    stale = list(range(K))
    while (room < 0).any():
        for k in stale:  # the cheapest document to move from k to each other cluster
            members = np.flatnonzero(chosen == k)
            if len(members):
                losses = scores[members, k][:, None] - scores[members]
                cheapest = losses.argmin(axis=0)
                cost[k], mover[k] = losses[cheapest, np.arange(K)], members[cheapest]
            else:
                cost[k] = np.inf
        stale = _cheapest_path(cost, room, _SAME * scale)
        movers = [mover[a, b] for a, b in pairwise(stale)]
        chosen[movers] = stale[1:]
        room[stale[0]] += 1
        room[stale[-1]] -= 1
    return chosen


def _cheapest_path(cost: Array, room: NDArray[Any], same: float) -> list[int]:
    """Find the cheapest path from an overfull cluster to one with room (Bellman-Ford)."""
    K = len(room)
    reach = np.where(room < 0, 0.0, np.inf)
    before = np.full(K, -1)
    for _ in range(K):
        through = reach[:, None] + cost
        nearest = through.argmin(axis=0)
        # By more than rounding, which could close a circle.
        shorter = through[nearest, np.arange(K)] < reach - same
        if not shorter.any():
            break
        before[shorter] = nearest[shorter]
        reach[shorter] = through[nearest[shorter], shorter]
    path = [int(np.where(room > 0, reach, np.inf).argmin())]
    while before[path[0]] >= 0:
        path.insert(0, int(before[path[0]]))
    return path
