"""Ensembles from cached scores, in numpy alone: the domain posterior of a shard, its mixture, its numbers.

A shard is S windows of T tokens scored by E experts: ``logp_EST``. Each window is a sequence of its own:
the posterior begins anew from the prior, as in the paper, whose blocks are the model's context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm import posterior
from btm.config import EnsembleConfig
from btm.posterior import Array


def fit_prior(valid_EST: NDArray[np.float32], ensemble: EnsembleConfig) -> Array:
    """Return the log prior, shape (E,), that `ensemble` asks for, fitted on valid windows."""
    wanted = ensemble.prior_sequences or valid_EST.shape[1]
    sequences_EST = valid_EST[:, :wanted]
    if ensemble.prior == "cached":
        prior = posterior.cached_prior(sequences_EST.swapaxes(0, 1), ensemble.decay)
    elif ensemble.prior == "em":
        prior = posterior.em_prior(sequences_EST)
    else:
        prior = posterior.uniform_prior(len(valid_EST))
    return posterior.top_k(prior, ensemble.top_k)


@dataclass(frozen=True)
class Mixed:
    """The ensemble on one shard: total nats, and the mean over its tokens of each expert's posterior."""

    nats: float
    tokens: int
    mean_posterior: Array


def mix(logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig, tokens: int) -> Mixed:
    """Return the ensemble's result on a shard whose first `tokens` scores are real (the rest is padding)."""
    nats, weights_E, counted = 0.0, np.zeros(len(logp_EST)), 0
    for logp_ET, prior_E in zip(
        logp_EST.swapaxes(0, 1), _priors(logp_EST, log_prior_E, ensemble), strict=False
    ):
        logp_ET = logp_ET[:, : tokens - counted]
        belief_ET = posterior.domain_posterior(logp_ET, prior_E)
        nats -= float(posterior.mixture(logp_ET, prior_E).sum())
        weights_E += np.exp(belief_ET).sum(axis=1)
        counted += logp_ET.shape[1]
    return Mixed(nats, counted, weights_E / counted)


def _priors(logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig) -> Iterator[Array]:
    """Yield the log prior to begin each window with: always the same, unless the prior is `updating`."""
    if ensemble.prior != "updating":
        yield from (log_prior_E for _ in range(logp_EST.shape[1]))
        return
    for prior_E in posterior.moving_priors(logp_EST.swapaxes(0, 1), ensemble.decay):
        yield posterior.top_k(prior_E, ensemble.top_k)


def numbers(nats: float, tokens: int, utf8_bytes: int) -> dict[str, float]:
    """Return the three ways to say a loss."""
    return {
        "nats_per_token": nats / tokens,
        "perplexity": posterior.perplexity(nats / tokens),
        "bits_per_byte": posterior.bits_per_byte(nats, utf8_bytes),
    }


def shard_result(
    names: list[str],
    logp_EST: NDArray[np.float32],
    members: list[str],
    valid_EST: NDArray[np.float32],
    ensemble: EnsembleConfig,
    size: tuple[int, int],
) -> dict[str, Any]:
    """Return the entry of evals/<name>.json for one shard of `size` (tokens, UTF-8 bytes).

    `names` are the ELMs of `logp_EST`, every one of them reported alone; `members` are those of the
    ensemble, and of `valid_EST`, on which its prior is fitted.
    """
    tokens, utf8_bytes = size
    rows = [names.index(member) for member in members]
    prior_E = fit_prior(valid_EST, ensemble)
    mixed = mix(logp_EST[rows], prior_E, ensemble, tokens)
    alone = -logp_EST.reshape(len(names), -1)[:, :tokens].sum(axis=1, dtype=np.float64)
    return {
        "tokens": tokens,
        "bytes": utf8_bytes,
        "ensemble": numbers(mixed.nats, tokens, utf8_bytes),
        "experts": {n: numbers(float(x), tokens, utf8_bytes) for n, x in zip(names, alone, strict=True)},
        "prior": {n: float(p) for n, p in zip(members, np.exp(prior_E), strict=True)},
        "mean_posterior": {n: float(p) for n, p in zip(members, mixed.mean_posterior, strict=True)},
    }
