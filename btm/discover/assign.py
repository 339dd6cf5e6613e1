"""Balanced assignment: every cluster gets its share of the documents (BASE layers, arXiv 2103.16716)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 200
_CLOSE = 1e-9  # of the scale of the scores: prices that move less have settled


def balanced_assignment(scores_DK: ArrayLike) -> NDArray[np.int64]:
    """Return a cluster for each document, shape (D,), that maximises Σ_d scores[d, cluster of d].

    Subject to sizes that differ by one at most. This is the linear assignment of BASE layers (equation 3).
    Its dual gives every cluster a price: a document takes the cluster of highest score less price. In turn each
    cluster's price is set so that just its share of the documents wants it, given the other prices, which can
    only lower the dual; ties that remain are settled by regret. Tests hold it to scipy's exact optimum.
    """
    scores = np.asarray(scores_DK, np.float64)
    if scores.ndim != 2 or not scores.shape[1] or not np.isfinite(scores).all():
        raise ValueError(f"scores have shape {scores.shape}; wanted finite (documents, clusters)")
    D, K = scores.shape
    shares = np.full(K, D // K) + (np.arange(K) < D % K)
    return _settle(scores - _prices(scores, shares), shares)


def _prices(scores: NDArray[np.float64], shares: NDArray[Any]) -> NDArray[np.float64]:
    """Return the price of each cluster, shape (K,), by coordinate descent on the dual."""
    D, K = scores.shape
    prices = np.zeros(K)
    if K == 1 or K > D:
        return prices
    scale = float(np.ptp(scores)) or 1.0
    for _ in range(_ROUNDS):
        before = prices.copy()
        for k in range(K):
            values = scores - prices
            values[:, k] = -np.inf
            margin = scores[:, k] - values.max(
                axis=1
            )  # the highest price at which each document still wants k
            share = int(shares[k])
            high, low = np.partition(margin, (D - share - 1, D - share))[[D - share, D - share - 1]]
            prices[k] = (high + low) / 2
        prices -= prices.mean()
        if np.abs(prices - before).max() <= _CLOSE * scale:
            break
    return prices


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
