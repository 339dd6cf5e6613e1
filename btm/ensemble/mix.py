"""Ensembles from cached scores, in numpy alone: the domain posterior of a shard, its mixture, its
numbers.

A shard is S windows of T tokens scored by E experts: ``logp_EST``. Each window is a sequence of its
own, whose posterior begins anew from the prior, as in the paper, whose blocks are the model's
context; or with `ensemble.carry` it begins with what the window before it ended with.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, posterior, rules
from btm.ensemble.posterior import Array

# From a shard's tokens and the length of a window (0: documents alone are contexts) to log w_j,t of
# consecutive tokens, (E, some): a `btm.ensemble.router.Route`.
Route = Callable[[NDArray[Any], int], Iterator[Array]]
_BLOCK = 1 << 19  # scores that are mixed at once: with their weights, what a cache holds
_STEP = 2048  # … but at least so many (expert, window) pairs: a step over fewer is all overhead


@dataclass(frozen=True)
class Mixed:
    """The ensemble on one shard: `logp` of every token, shape (T,), and the mean of each expert's
    weight, (E,).
    """

    logp: Array
    mean_posterior: Array

    @property
    def nats(self) -> float:
        """The nats of all tokens."""
        return -float(self.logp.sum())


def mix(
    logp_EST: NDArray[np.float32],
    log_prior_E: Array,
    ensemble: EnsembleConfig,
    tokens: int,
    ids_N: NDArray[Any] | None = None,
    route: Route | None = None,
) -> Mixed:
    """Return the ensemble's result on a shard whose first `tokens` scores are real (the rest is
    padding).

    Experts that the prior leaves out are not read. `ids_N` are the shard's first tokens themselves,
    which the rules `gated` and `router` read; `route` gives the weights of the latter.
    """
    if ensemble.rule == "router":
        return _mix_routed(logp_EST, ensemble, _first(ids_N, tokens), route)
    kept = np.flatnonzero(np.isfinite(log_prior_E))
    if len(kept) < len(logp_EST) and ensemble.prior != "updating":
        mixed = mix(logp_EST[kept], log_prior_E[kept], ensemble, tokens, ids_N)
        mean_E = np.zeros(len(logp_EST))
        mean_E[kept] = mixed.mean_posterior
        return replace(mixed, mean_posterior=mean_E)
    if ensemble.rule == "gated":
        return _mix_gated(logp_EST, log_prior_E, ensemble, _first(ids_N, tokens))
    experts, _, window = logp_EST.shape
    rule = rules.RULES[ensemble.rule]
    alpha, beta = ensemble.settings
    logp_T, weights_E = np.empty(tokens), np.zeros(experts)
    first_ES = belief_E = None
    for start, block_EST, prior_ES in blocks(logp_EST, log_prior_E, ensemble):
        if ensemble.carry:
            first_ES, belief_E = rules.carried(
                ensemble.rule, block_EST, prior_ES, alpha, beta, belief_E
            )
        logp_ST, weights_EST = rule(block_EST, prior_ES, alpha, beta, first_ES)
        real = min(logp_ST.size, tokens - start * window)
        logp_T[start * window : start * window + real] = logp_ST.reshape(-1)[:real]
        weights_E += weights_EST.reshape(experts, -1)[:, :real].sum(axis=1)
    return Mixed(logp_T, weights_E / tokens)


def _mix_gated(
    logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig, ids_N: NDArray[Any]
) -> Mixed:
    """Return what `mix` does under the rule `gated`, on the tokens `ids_N`."""
    experts, _, window = logp_EST.shape
    logp_EN = logp_EST.reshape(experts, -1)[:, : len(ids_N)]
    theta = gate.DEFAULT if ensemble.gate is None else ensemble.gate
    logp_N, weights_E = [], np.zeros(experts)
    new_text = 0 if ensemble.carry else window
    for block_N, weights_EN in gate.mixed_blocks(logp_EN, log_prior_E, theta, ids_N, new_text):
        logp_N.append(block_N)
        weights_E += weights_EN.sum(axis=1)
    return Mixed(np.concatenate(logp_N), weights_E / len(ids_N))


def _mix_routed(
    logp_EST: NDArray[np.float32],
    ensemble: EnsembleConfig,
    ids_N: NDArray[Any],
    route: Route | None,
) -> Mixed:
    """Return what `mix` does under the rule `router`: Σ_j w_j,t p_j, whatever the experts' scores
    were before.
    """
    if route is None:
        raise ValueError("the rule router needs a route")
    experts, _, window = logp_EST.shape
    logp_EN = logp_EST.reshape(experts, -1)
    logp_N, weights_E, start = np.empty(len(ids_N)), np.zeros(experts), 0
    for weights_EB in route(ids_N, 0 if ensemble.carry else window):
        stop = start + weights_EB.shape[1]
        logp_N[start:stop] = np.logaddexp.reduce(logp_EN[:, start:stop] + weights_EB, axis=0)
        weights_E += np.exp(weights_EB).sum(axis=1)
        start = stop
    return Mixed(logp_N, weights_E / len(ids_N))


def _first(ids_N: NDArray[Any] | None, tokens: int) -> NDArray[Any]:
    if ids_N is None:
        raise ValueError("the rules gated and router need the tokens beside their scores")
    return ids_N[:tokens]


def blocks(
    logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig
) -> Iterator[tuple[int, NDArray[np.float32], Array]]:
    """Yield (first window, scores, log prior (E, S)) of so many windows as a processor's cache
    holds.
    """
    experts, n_windows, window = logp_EST.shape
    log_prior_ES = _priors(logp_EST, log_prior_E, ensemble)
    rows = max(1, _BLOCK // (experts * window), _STEP // experts)
    for start in range(0, n_windows, rows):
        stop = min(start + rows, n_windows)
        yield start, logp_EST[:, start:stop], log_prior_ES[:, start:stop]


def _priors(logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig) -> Array:
    """Return the log prior to begin each window with, shape (E, S): one for all, unless it is
    `updating`.
    """
    if ensemble.prior != "updating":
        return np.broadcast_to(log_prior_E[:, None], logp_EST.shape[:2])
    moving = posterior.moving_priors(logp_EST.swapaxes(0, 1), ensemble.decay)
    return np.stack([posterior.top_k(prior_E, ensemble.top_k) for prior_E in moving][:-1], axis=1)
