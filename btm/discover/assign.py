"""Balanced assignment: every cluster gets its share of the documents (BASE layers, arXiv 2103.16716)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SOFTNESS = (0.1, 0.03, 0.01, 0.003, 0.001)  # of the scale of the scores, one after another
_STEPS = 10  # of Newton's method for each
_MISSED = 0.002  # of a cluster's share: nearer than that, the next softness does more
_RIDGE = 1e-6
_SHORTEST = 1e-3  # of Newton's step
_ROUNDS = 200
_CLOSE = 1e-9  # of the scale of the scores: prices that move less have settled


def balanced_assignment(scores_DK: ArrayLike) -> NDArray[np.int64]:
    """Return a cluster for each document, shape (D,), that maximises Σ_d scores[d, cluster of d].

    Subject to sizes that differ by one at most. This is the linear assignment of BASE layers (equation 3).
    Its dual gives every cluster a price: a document takes the cluster of highest score less price. The dual is first
    smoothed, less and less, and solved by Newton's method (the assignment becomes optimal transport with entropy);
    then in turn each cluster's price is set so that just its share of the documents wants it, given the other prices,
    which can only lower the dual. Prices under which every cluster is wanted by its share are optimal; ties that
    remain are settled by regret. Tests hold it to scipy's exact optimum.
    """
    scores = np.asarray(scores_DK, np.float64)
    if scores.ndim != 2 or not scores.shape[1] or not np.isfinite(scores).all():
        raise ValueError(f"scores have shape {scores.shape}; wanted finite (documents, clusters)")
    D, K = scores.shape
    shares = np.full(K, D // K) + (np.arange(K) < D % K)
    if K == 1 or K > D:
        return _settle(scores, shares)
    scale = float(np.ptp(scores)) or 1.0
    prices = np.zeros(K)
    for softness in _SOFTNESS:
        prices = _newton(scores, shares, prices, softness * scale)
    return _settle(scores - _descend(scores, shares, prices, scale), shares)


def _newton(scores: Array, shares: NDArray[Any], prices: Array, soft: float) -> Array:
    """Return the prices, (K,), that minimise Σ_d soft log Σ_k exp((scores − prices) / soft) + shares · prices."""

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


def _descend(scores: Array, shares: NDArray[Any], prices: Array, scale: float) -> Array:
    """Return prices, (K,), after coordinate descent on the dual itself, until they are optimal or have settled.

    For each document its highest value, whose it is, and the next are kept, so that a new price costs O(D).
    """
    D, K = scores.shape
    scores_KD = np.ascontiguousarray(scores.T)
    for _ in range(_ROUNDS):
        values_KD = scores_KD - prices[:, None]
        best, first, second = _two_best(values_KD)
        if (np.bincount(best, minlength=K) == shares).all():
            break
        before = prices.copy()
        for k in range(K):
            mine = best == k
            others = np.where(mine, second, first)
            margin = scores_KD[k] - others  # the highest price at which each document still wants k
            share = int(shares[k])
            high, low = np.partition(margin, (D - share - 1, D - share))[[D - share, D - share - 1]]
            prices[k] = (high + low) / 2
            old, values_KD[k] = values_KD[k].copy(), scores_KD[k] - prices[k]
            new = values_KD[k]
            wins = new > others
            # Where k was among the two best and is less now, the next best may be any.
            lost = np.flatnonzero((mine & ~wins) | (~mine & ~wins & (old >= second) & (new < old)))
            second = np.where(wins, others, np.maximum(second, new))
            first = np.where(wins, new, others)
            best = np.where(wins, k, best)
            if len(lost):
                best[lost], first[lost], second[lost] = _two_best(values_KD[:, lost])
        prices -= prices.mean()
        if np.abs(prices - before).max() <= _CLOSE * scale:
            break
    return prices


def _two_best(values_KD: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Return for each document the cluster of its highest value, that value, and the next highest, (D,)."""
    best = values_KD.argmax(axis=0)
    rows = np.arange(values_KD.shape[1])
    first = values_KD[best, rows]
    values_KD = values_KD.copy()
    values_KD[best, rows] = -np.inf
    return best, first, values_KD.max(axis=0)


def _settle(values: NDArray[np.float64], shares: NDArray[Any]) -> NDArray[np.int64]:
    """Give every document its best cluster with room, those first who would lose most by another."""
    D, K = values.shape
    ranked = np.sort(values, axis=1)
    regret = ranked[:, -1] - ranked[:, -2] if K > 1 else np.zeros(D)
    wanted = values.argmax(axis=1)
    chosen = np.full(D, -1, np.int64)
    room = shares.copy()
    for k in range(K):  # at settled prices nearly all of this is exact
        takers = np.flatnonzero(wanted == k)
        kept = takers[np.argsort(-regret[takers], kind="stable")[: room[k]]]
        chosen[kept] = k
        room[k] -= len(kept)
    left = np.flatnonzero(chosen < 0)
    for d in left[np.argsort(-regret[left], kind="stable")]:
        k = int(np.where(room > 0, values[d], -np.inf).argmax())
        chosen[d] = k
        room[k] -= 1
    return chosen
