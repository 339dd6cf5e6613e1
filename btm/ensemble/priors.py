"""The prior of an ensemble, fitted on windows of a domain's valid split (BTM, section 2.2)."""

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior
from btm.ensemble.posterior import Array

FITTED = ("cached", "em", "token")  # the priors that read a valid split


def fit_prior(valid_EST: NDArray[np.float32], ensemble: EnsembleConfig) -> Array:
    """Fit the log prior of `ensemble.prior` on valid windows and keep its top-k, shape (E,).

    `valid_EST` are scores in nats: E experts, S windows, T tokens. The first
    `ensemble.prior_sequences` windows are read.
    """
    wanted = ensemble.prior_sequences or valid_EST.shape[1]
    sequences_EST = valid_EST[:, :wanted]
    if ensemble.prior == "cached":
        prior_E = posterior.cached_prior(sequences_EST.swapaxes(0, 1), ensemble.decay)
    elif ensemble.prior == "em":
        prior_E = posterior.em_prior(sequences_EST)
    elif ensemble.prior == "token":
        prior_E = posterior.token_prior(sequences_EST)
    else:
        prior_E = posterior.uniform_prior(len(valid_EST))
    return posterior.top_k(prior_E, ensemble.top_k)
