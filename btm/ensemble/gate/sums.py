"""Decayed sums of each expert's past scores at every token of a text, over tokens in like places.

Tokens with the same ones before them make a run; long runs are cut into pieces. The recursion s ←
2^(-1/h) s + score is walked step by step through all pieces and several experts at once. What one
step reads lies side by side in memory.

Shapes: E experts, N tokens of a text in order, F features, M experts of a group, H features with
the same number of tokens in common.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
Features = tuple[tuple[int, float], ...]  # (tokens in common, half-life) of each

_PIECE = 256  # places of a run that one step after another walks through, at least
_TRANSPOSED = 2048  # tokens at once, of a group
_GROUP = 16  # experts at once: of float32, a line of a processor's cache


def weighted(
    logp_EN: Floats, ids_N: Integers, theta_F: Array, begins_N: Flags, features: Features
) -> Floats:
    """Compute Σ_f θ_f L_f,j(t), (E, N), as exact as the scores are.

    Sums of float32 scores are float32: where they fade they do not drift.
    """
    logits_EN = np.empty_like(logp_EN)
    contexts = _contexts(ids_N, begins_N, features)
    for experts, seen_NM in _groups(logp_EN):
        total_NM = np.zeros_like(seen_NM)
        for rows, runs, decay_H in contexts:
            part_NM = np.empty_like(seen_NM)
            for at, h, state_nM in runs.walk(seen_NM.take(runs.time, axis=0), decay_H):
                term_nM = state_nM * seen_NM.dtype.type(theta_F[rows[h]])
                if h:
                    part_NM[at] += term_nM
                else:
                    part_NM[at] = term_nM
            total_NM += part_NM.take(runs.place, axis=0)
        for some in _slices(len(total_NM)):
            logits_EN[experts, some] = total_NM[some].T
    return logits_EN


def each(
    logp_EN: Floats, ids_N: Integers, begins_N: Flags, features: Features
) -> Iterator[tuple[int, slice, Floats]]:
    """Yield each feature of each group of experts: its number, the experts, and L_f,
    (experts, N).
    """
    contexts = _contexts(ids_N, begins_N, features)
    for experts, seen_NM in _groups(logp_EN):
        for rows, runs, decay_H in contexts:
            found_HNM = np.empty((len(rows), *seen_NM.shape))
            for at, h, state_nM in runs.walk(seen_NM.take(runs.time, axis=0), decay_H):
                found_HNM[h, at] = state_nM
            for f, found_NM in zip(rows, found_HNM, strict=True):
                yield f, experts, found_NM.take(runs.place, axis=0).T


def decays(half_lives: Sequence[float]) -> Array:
    """Compute the factor by which a score fades in one step, for each half-life."""
    return 2.0 ** (-1.0 / np.asarray(half_lives, np.float64))


@dataclass(frozen=True)
class Runs:
    """The tokens of a text in places: first the first of every piece, then the second of those that
    have one, ….

    Pieces stand from the longest to the shortest, so that those still walked through are the first
    ones.
    """

    time: Integers  # (N,): of each place
    place: Integers  # (N,): of each time
    bounds: Integers  # (steps + 1,): the places of each step
    number: Integers  # (C,): of each of C pieces within its run
    before: Integers  # (C,): the piece before it, where its number is not 0
    piece: int  # places of a full one

    @classmethod
    def of(cls, keys_N: Integers) -> "Runs":
        """Return those of tokens that have the same key."""
        by_key = np.argsort(keys_N, kind="stable")
        keys = keys_N[by_key]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        lengths = np.diff(np.append(first, len(keys)))
        piece = max(_PIECE, isqrt(int(lengths.max())))
        rank_N = np.arange(len(keys)) - np.repeat(first, lengths)
        start = np.flatnonzero(rank_N % piece == 0)
        length = np.diff(np.append(start, len(keys)))
        longest_first = np.argsort(-length, kind="stable")
        where = np.argsort(longest_first)
        bounds = np.concatenate([[0], np.cumsum(np.cumsum(np.bincount(length)[:0:-1])[::-1])])
        place = np.empty_like(by_key)
        place[by_key] = bounds[rank_N % piece] + np.repeat(where, length)
        before = where[np.maximum(longest_first - 1, 0)]
        time = np.empty_like(place)
        time[place] = np.arange(len(place))
        return cls(time, place, bounds, (rank_N[start] // piece)[longest_first], before, piece)

    def walk(self, seen_NM: Floats, decay_H: Array) -> Iterator[tuple[slice, int, Floats]]:
        """Yield places, and for each half-life the sums (places, M) of what was seen before them in
        their runs.
        """
        states = self._begin(seen_NM, decay_H)
        for low, high in pairwise(self.bounds.tolist()):
            at = slice(low, high)
            for h, state_CM in enumerate(states):
                now = state_CM[: high - low]
                yield at, h, now
                now *= seen_NM.dtype.type(decay_H[h])
                now += seen_NM[at]

    def _begin(self, seen_NM: Floats, decay_H: Array) -> Floats:
        """Return the sums that each piece begins with, (H, C, M): 0, or what those before it in its
        run left.
        """
        state_HCM = np.zeros((len(decay_H), len(self.number), seen_NM.shape[1]), seen_NM.dtype)
        fading_HL = (decay_H[:, None] ** np.arange(self.piece - 1, -1, -1)).astype(seen_NM.dtype)
        whole_H11 = (decay_H**self.piece).astype(seen_NM.dtype)[:, None, None]
        by_number = np.argsort(self.number, kind="stable")
        for low, high in pairwise(np.cumsum(np.bincount(self.number)).tolist()):
            some = by_number[low:high]
            before = self.before[some]
            left = seen_NM.take(before[:, None] + self.bounds[: self.piece], axis=0)
            state_HCM[:, some] = (
                np.tensordot(fading_HL, left, ([1], [1])) + state_HCM[:, before] * whole_H11
            )
        return state_HCM


def _contexts(
    ids_N: Integers, begins_N: Flags, features: Features
) -> list[tuple[list[int], Runs, Array]]:
    """Return, for each number of tokens in common: its features, its runs, their decays."""
    found = []
    for context in sorted({context for context, _ in features}) if len(ids_N) else []:
        rows = [f for f, (c, _) in enumerate(features) if c == context]
        found.append(
            (rows, Runs.of(_keys(ids_N, context, begins_N)), decays([features[f][1] for f in rows]))
        )
    return found


def _groups(logp_EN: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield some experts and their scores, (N, M), over the mean of all: no weight depends on it,
    sums stay small.
    """
    mean_N = logp_EN.mean(axis=0, dtype=np.float64).astype(logp_EN.dtype)
    for first in range(0, len(logp_EN), _GROUP):
        experts = slice(first, first + _GROUP)
        seen_NM = np.empty((logp_EN.shape[1], len(logp_EN[experts])), logp_EN.dtype)
        for some in _slices(logp_EN.shape[1]):
            seen_NM[some] = (logp_EN[experts, some] - mean_N[some]).T
        yield experts, seen_NM


def _slices(tokens: int) -> Iterator[slice]:
    """Yield so many tokens at a time as can be transposed within a processor's cache."""
    return (slice(start, start + _TRANSPOSED) for start in range(0, tokens, _TRANSPOSED))


def _keys(ids_N: Integers, context: int, begins_N: Flags) -> Integers:
    """Number each token, equal numbers where the text and the `context` tokens before are equal.

    `begins_N` marks the tokens that begin a text.
    """
    times = np.arange(len(ids_N))
    begun_N = np.maximum.accumulate(np.where(begins_N, times, 0))
    keys, within = begun_N, times - begun_N
    base = int(ids_N.max()) + 2
    for back in range(1, context + 1):
        before = np.zeros_like(keys)
        before[back:] = ids_N[:-back] + 1
        before[within < back] = 0
        if int(keys.max()) > 2**62 // base:
            keys = np.unique(keys, return_inverse=True)[1]
        keys = keys * base + before
    return keys
