"""The rows of a mixture's routers: W of logits x Wᵀ, (layers, experts, width), by name.

The gates of these classes have no intercept, so none is fitted.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from btm.models.moe.hidden import Sums

Array = NDArray[np.float64]
SPREAD = 0.02  # standard deviation of random rows: that of a new model's matrices


def ridge(sums: Sequence[Sums], strength: float) -> Array:
    """Fit W = (XᵀX + λI)⁻¹ XᵀY by layer, λ = `strength`, on one-hot domains Y (DUME, arXiv
    2603.29765); `sums` are the experts', in the order of the rows.
    """
    gram = np.zeros_like(sums[0].gram)
    for each in sums:
        gram += each.gram
    gram += strength * np.eye(gram.shape[-1])
    targets_LHE = np.stack([each.total for each in sums], axis=-1)
    solved = np.linalg.solve(gram, targets_LHE)
    return solved.transpose(0, 2, 1).astype(np.float64, copy=False)


def domain(sums: Sequence[Sums]) -> Array:
    """Take each domain's mean hidden state, less the mean of these, at length 1.

    What all rows share moves all logits alike, and softmax does not see it. Without equal lengths
    the domain furthest from the others would win on tokens that are none's.
    """
    means_LEH = np.stack([each.total / each.tokens for each in sums], axis=1)
    means_LEH = means_LEH - means_LEH.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(means_LEH, axis=-1, keepdims=True)
    return means_LEH / np.where(lengths == 0, 1.0, lengths)


def random(names: Sequence[str], seed: int, layers: int, width: int) -> Array:
    """Draw rows that depend on `seed` and the expert's name alone, so that the others' stay as they
    are when one joins or leaves.
    """
    drawn = []
    for name in names:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        entropy = np.random.SeedSequence([seed, int.from_bytes(digest, "little")])
        rng = np.random.Generator(np.random.Philox(entropy))
        drawn.append(rng.normal(0.0, SPREAD, (layers, width)))
    return np.stack(drawn, axis=1)
