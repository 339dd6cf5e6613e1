"""An n-gram cache: what was read lately is likely to come again, whatever model reads it.

    p(x_t | x_<t) = λ_0 p_model(x_t | x_<t) + Σ_n λ_n c_n(x_t)     n = 1, 2, 3

c_n are the relative frequencies of what followed the last n - 1 tokens since the memory began anew
(Kuhn and De Mori, IEEE PAMI 12, 1990; Grave et al., arXiv 1612.04426, for the same by a neural LM's
states). Where nothing followed them yet, λ_n goes to the model, so that the sum stays a
distribution. λ are fitted on valid text by expectation-maximisation, which is concave in them.

It needs scores and tokens alone and serves any row: an expert, a dense LM, an ensemble. A forest
that remembers more than its experts' windows is to be compared with a dense LM and this cache.

Shapes: N tokens of a text in order, K = 4 components. Scores are in nats. numpy alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btm.ensemble.posterior import Array, logsumexp
from btm.ensemble.text import Flags, Integers, portions

ORDER = 3  # trigrams
_ITERATIONS = 500
_ENOUGH = 1e-7  # a step that moves no weight by more is the last


@dataclass(frozen=True)
class Read:
    """A text under one model: its scores, its tokens, and where the memory begins anew."""

    logp: ArrayLike  # (N,)
    ids: Integers  # (N,)
    resets: Flags  # (N,)


def fit(texts: Sequence[Read]) -> tuple[float, ...]:
    """Fit λ, (K,), on valid texts, each of which counts the same whatever its length."""
    parts = [(len(np.asarray(read.logp)), list(_components(read))) for read in texts]
    weights_K = np.full(ORDER + 1, 1 / (ORDER + 1))
    for _ in range(_ITERATIONS):
        with np.errstate(divide="ignore"):
            log_weights_K1 = np.log(weights_K)[:, None]
        new_K = np.zeros_like(weights_K)
        for tokens, pieces in parts:
            for part_KN in pieces:
                joint_KN = part_KN + log_weights_K1
                share_K = np.exp(joint_KN - logsumexp(joint_KN)).mean(axis=1)
                # Of the only portion the mean is that of the text.
                if len(pieces) > 1:
                    share_K = share_K * (part_KN.shape[1] / tokens)
                new_K += share_K / len(parts)
        moved = float(np.abs(new_K - weights_K).max())
        weights_K = new_K
        if moved <= _ENOUGH:
            break
    return tuple(float(weight) for weight in weights_K / weights_K.sum())


def mix(read: Read, weights: Sequence[float]) -> Array:
    """Mix the model's probabilities with the cache's under λ; log p of each token, (N,)."""
    with np.errstate(divide="ignore"):
        log_weights_K1 = np.log(np.asarray(weights, np.float64))[:, None]
    mixed = [logsumexp(part_KN + log_weights_K1) for part_KN in _components(read)]
    return np.concatenate([np.empty(0), *mixed])


def named(weights: Sequence[float]) -> dict[str, float]:
    """Name each weight of λ."""
    return dict(zip(["model", "unigram", "bigram", "trigram"], weights, strict=True))


def _components(read: Read) -> Iterator[Array]:
    """Compute log p of each token by the model and by each order of the cache, (K, N).

    Yields a portion at a time, cut where the memory begins anew.
    """
    logp_N = np.asarray(read.logp, np.float64)
    for some in portions(read.resets):
        yield _portion(logp_N[some], read.ids[some], read.resets[some])


def _portion(logp_N: Array, ids_N: Integers, resets_N: Flags) -> Array:
    """Compute the components of whole memories, (K, N)."""
    found_KN = np.empty((ORDER + 1, len(logp_N)))
    found_KN[0] = logp_N
    for order, (seen_N, total_N) in enumerate(_counts(ids_N, resets_N), start=1):
        with np.errstate(divide="ignore"):
            log_share_N = np.log(seen_N) - np.log(np.maximum(total_N, 1))
        found_KN[order] = np.where(total_N > 0, log_share_N, logp_N)
    return found_KN


def _counts(ids_N: Integers, resets_N: Flags) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Count, for each order, how often a token followed its context before, and what else did.

    Returns pairs of (N,): occurrences of the n-gram that ends at t, and of its context with any
    token after it, both since the memory began anew and before t.
    """
    times = np.arange(len(ids_N))
    begun_N = np.maximum.accumulate(np.where(resets_N, times, 0))
    within_N = times - begun_N
    base = int(ids_N.max(initial=0)) + 2
    keys_N, total_N = begun_N, within_N
    counts = []
    for order in range(1, ORDER + 1):
        # The n-gram that ends here: the memory's beginning, then its tokens, the last one first.
        part_N = np.zeros_like(ids_N)
        back = order - 1
        part_N[back:] = ids_N[: len(ids_N) - back] + 1
        part_N[within_N < back] = 0  # what stands before the beginning is forgotten
        keys_N = np.unique(keys_N * base + part_N, return_inverse=True)[1]
        seen_N = _earlier(keys_N)
        whole_N = within_N >= back
        counts.append((np.where(whole_N, seen_N, 0), np.where(whole_N, total_N, 0)))
        # A context has been followed as often as it was seen before the token that ends it now.
        total_N = np.concatenate([[0], seen_N[:-1]])
    return counts


def _earlier(keys_N: Integers) -> NDArray[np.int64]:
    """Count the earlier tokens that have the same key, (N,)."""
    order = np.argsort(keys_N, kind="stable")
    keys = keys_N[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(keys)]
    ranks = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    counts = np.empty_like(ranks)
    counts[order] = ranks
    return counts
