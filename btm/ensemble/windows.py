"""A shard's windows in blocks that fit a processor's cache, each window with its prior.

Shapes: E experts, S windows, T tokens of a window. ``logp_EST`` are scores in nats. numpy alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior
from btm.ensemble.posterior import Array

_BLOCK = 1 << 19  # scores mixed at once: with their weights, what a cache holds
_STEP = 2048  # … but at least so many (expert, window) pairs: a step over fewer is all overhead


def blocks(
    logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig
) -> Iterator[tuple[int, NDArray[np.float32], Array]]:
    """Yield (first window, scores (E, some, T), log prior (E, some)) of consecutive windows."""
    experts, n_windows, window = logp_EST.shape
    log_prior_ES = _priors(logp_EST, log_prior_E, ensemble)
    rows = max(1, _BLOCK // (experts * window), _STEP // experts)
    for start in range(0, n_windows, rows):
        stop = min(start + rows, n_windows)
        yield start, logp_EST[:, start:stop], log_prior_ES[:, start:stop]


def _priors(logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig) -> Array:
    """Give each window its log prior, shape (E, S): the same to all, unless it is `updating`."""
    if ensemble.prior != "updating":
        return np.broadcast_to(log_prior_E[:, None], logp_EST.shape[:2])
    moving = posterior.moving_priors(logp_EST.swapaxes(0, 1), ensemble.decay)
    return np.stack([posterior.top_k(prior_E, ensemble.top_k) for prior_E in moving][:-1], axis=1)
