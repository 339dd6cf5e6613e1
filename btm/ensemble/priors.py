"""The prior of an ensemble, fitted on windows of a domain's valid split (BTM, section 2.2).

Shapes: E experts, S windows of T tokens, N tokens in order, Q sequences. Scores are in nats.
"""

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior
from btm.ensemble.posterior import Array
from btm.ensemble.text import Flags, evidence

FITTED = ("cached", "em", "token")  # the priors that read a valid split


def fit_prior(valid_EST: NDArray[np.float32], ensemble: EnsembleConfig, tokens: int) -> Array:
    """Fit the log prior of `ensemble.prior` on valid windows and keep its top-k, shape (E,).

    `valid_EST` are scores of which the first `tokens` are real. The first
    `ensemble.prior_sequences` windows are read (0: all).
    """
    whole_EST = whole_windows(valid_EST, tokens)
    sequences_EST = whole_EST[:, : ensemble.prior_sequences or None]
    if ensemble.prior == "cached":
        prior_E = posterior.cached_prior(sequences_EST.swapaxes(0, 1), ensemble.decay)
    elif ensemble.prior == "em":
        prior_E = posterior.em_prior(sequences_EST)
    elif ensemble.prior == "token":
        prior_E = posterior.token_prior(sequences_EST)
    else:
        prior_E = posterior.uniform_prior(len(valid_EST))
    return posterior.top_k(prior_E, ensemble.prior_top_k)


def whole_windows(logp_EST: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """Leave out a last window that is not full, (E, S or S - 1, T).

    A moving average of windows would count its one token as much as all those of another. Where it
    is the only window, its filling gets scores of 0, which tell the experts apart no more.
    """
    window = logp_EST.shape[2]
    if full := tokens // window:
        return logp_EST[:, :full]
    only_EST = logp_EST[:, :1].copy()
    only_EST[:, :, tokens:] = 0
    return only_EST


def of_sequences(
    logp_EN: NDArray[np.float32], resets_N: Flags, log_prior_E: Array, ensemble: EnsembleConfig
) -> Array:
    """Give each sequence that `resets_N` begins its log prior, (E, Q).

    It is the same for all, unless the prior is `updating`.
    """
    if ensemble.prior != "updating":
        return np.broadcast_to(log_prior_E[:, None], (len(log_prior_E), int(resets_N.sum())))
    sums_QE1 = evidence(logp_EN, resets_N).T[:, :, None]
    moving = list(posterior.moving_priors(sums_QE1, ensemble.decay))[:-1]
    return np.stack([posterior.top_k(prior_E, ensemble.prior_top_k) for prior_E in moving], axis=1)
