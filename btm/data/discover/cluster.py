"""Balanced spherical k-means: centres whose clusters all hold the same number of documents."""

import numpy as np
from numpy.typing import NDArray

from btm.data.discover.assign import balanced_assignment

Array = NDArray[np.float32]

_ROUNDS = 20
_SETTLED = 0.001  # share of the documents that may still move when it ends


def balanced_kmeans(features_DF: Array, k: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Find centres of length 1, (K, F), and each document's cluster, (D,).

    k-means in which the assignment step is balanced (c-BTM, arXiv 2303.14177, section 2.1), from
    centres chosen far apart (k-means++). Raises `ValueError` if there are fewer documents than
    clusters.
    """
    if not 1 <= k <= len(features_DF):
        raise ValueError(f"{len(features_DF)} documents cannot make {k} clusters")
    rng = np.random.default_rng(seed)
    centres = _far_apart(features_DF, k, rng)
    labels = np.full(len(features_DF), -1, np.int64)
    for _ in range(_ROUNDS):
        before, labels = labels, balanced_assignment(features_DF @ centres.T)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, features_DF)
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        if (labels != before).mean() <= _SETTLED:
            break
    return centres, labels


def _far_apart(features_DF: Array, k: int, rng: np.random.Generator) -> Array:
    """Draw documents as centres, with chances that grow with the distance from those drawn."""
    chosen = [int(rng.integers(len(features_DF)))]
    distance = 1 - features_DF @ features_DF[chosen[0]]
    while len(chosen) < k:
        chance = np.maximum(distance, 0).astype(np.float64)
        chance[chosen] = 0
        total = chance.sum()
        if total <= 0:
            chance = np.ones(len(features_DF))
            chance[chosen] = 0
            total = chance.sum()
        chosen.append(int(rng.choice(len(features_DF), p=chance / total)))
        distance = np.minimum(distance, 1 - features_DF @ features_DF[chosen[-1]])
    return features_DF[chosen].copy()
