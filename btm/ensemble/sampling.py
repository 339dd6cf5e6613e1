"""Choose a token from a distribution: greedily, or at random after temperature and cuts.

In this order, as vLLM and transformers have it: bias is added, the temperature divides, then min-p,
top-k and top-p cut. Shapes: V tokens of the vocabulary. numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from btm.ensemble.posterior import Array


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen."""

    temperature: float = 1.0  # 0: the likeliest
    top_p: float = 1.0  # nucleus sampling (arXiv 1904.09751): the fewest tokens of this probability
    top_k: int = 0  # the likeliest tokens that may be chosen; 0: all
    min_p: float = 0.0  # the least probability, as a share of the likeliest's (arXiv 2407.01082)
    bias: Mapping[int, float] = field(default_factory=dict)  # {token: nats added}
    seed: int | None = None  # None: another one for each request


def pick(logp_V: Array, sampling: Sampling, rng: np.random.Generator) -> int:
    """Choose a token from log p of every token, up to a constant, (V,).

    Of equals the likeliest is the one of smallest id.
    """
    if sampling.bias:
        logp_V = logp_V.copy()
        tokens = np.fromiter(sampling.bias, np.int64)
        logp_V[tokens] += np.fromiter(sampling.bias.values(), np.float64)
    if sampling.temperature == 0:
        return int(logp_V.argmax())
    scaled_V = logp_V / sampling.temperature
    kept = _kept(scaled_V, sampling)
    p = np.exp(scaled_V[kept] - scaled_V[kept].max())
    return int(kept[rng.choice(len(kept), p=p / p.sum())])


def _kept(scaled_V: Array, sampling: Sampling) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Number the tokens that may be chosen; the likeliest always may."""
    kept = np.arange(len(scaled_V))
    if sampling.min_p > 0:
        kept = np.flatnonzero(scaled_V >= scaled_V.max() + np.log(sampling.min_p))
    if 0 < sampling.top_k < len(kept):
        order = np.argsort(-scaled_V[kept], kind="stable")
        kept = np.sort(kept[order[: sampling.top_k]])
    if sampling.top_p < 1:
        order = np.argsort(-scaled_V[kept], kind="stable")
        p = np.exp(scaled_V[kept][order] - scaled_V[kept].max())
        before = np.cumsum(p / p.sum()) - p / p.sum()
        kept = np.sort(kept[order[before < max(sampling.top_p, 1e-9)]])
    return kept
