"""Fit a prior, α and β, or a gate on scores of valid splits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, posterior, rules
from btm.ensemble.mix import blocks
from btm.ensemble.posterior import Array

ALPHAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2)  # tried when α is fitted

BETAS = (0.8, 0.9, 0.95, 0.98, 1.0)  # tried when β is fitted


def is_fitted(ensemble: EnsembleConfig) -> bool:
    """Tell whether anything of `ensemble` is fitted on valid splits, so that it may not be measured
    there.
    """
    if ensemble.rule == "router":
        return False  # its features and centres come from train documents, and it asks no prior
    return ensemble.prior in ("cached", "em", "token") or _is_open(ensemble)


def _is_open(ensemble: EnsembleConfig) -> bool:
    """Tell whether an α, a β or a gate is to be fitted."""
    needed = {"tracking": ("alpha", "beta"), "fixed_share": ("alpha",), "gated": ("gate",)}
    return any(getattr(ensemble, key) is None for key in needed.get(ensemble.rule, ()))


def fit_prior(valid_EST: NDArray[np.float32], ensemble: EnsembleConfig) -> Array:
    """Return the log prior, shape (E,), that `ensemble` asks for, fitted on valid windows.

    Under the rule `router`, which asks none, all experts alike: it keeps its top-k for each
    context.
    """
    if ensemble.rule == "router":
        return posterior.uniform_prior(len(valid_EST))
    wanted = ensemble.prior_sequences or valid_EST.shape[1]
    sequences_EST = valid_EST[:, :wanted]
    if ensemble.prior == "cached":
        prior = posterior.cached_prior(sequences_EST.swapaxes(0, 1), ensemble.decay)
    elif ensemble.prior == "em":
        prior = posterior.em_prior(sequences_EST)
    elif ensemble.prior == "token":
        prior = posterior.token_prior(sequences_EST)
    else:
        prior = posterior.uniform_prior(len(valid_EST))
    return posterior.top_k(prior, ensemble.top_k)


def fit_rule(
    valid: list[NDArray[np.float32]],
    log_priors: list[Array],
    ensemble: EnsembleConfig,
    tokens: list[int],
    ids: Sequence[NDArray[Any]] | None = None,
) -> EnsembleConfig:
    """Return `ensemble` with what it leaves open of α, β and the gate set to what does best on
    valid shards.

    One shard, the domain's own, or several: then every domain counts the same, whatever its length.
    """
    if ensemble.rule == "gated":
        return _fit_gate(valid, log_priors, ensemble, tokens, ids or [])
    alphas = (ensemble.alpha,) if ensemble.alpha is not None else ALPHAS
    betas = (ensemble.beta,) if ensemble.beta is not None else BETAS
    if ensemble.rule == "fixed_share":
        betas = (1.0,)
    if ensemble.rule not in ("tracking", "fixed_share"):
        return ensemble
    choices = [replace(ensemble, alpha=alpha, beta=beta) for alpha in alphas for beta in betas]
    if len(choices) == 1:
        return choices[0]
    losses = np.zeros(len(choices))
    for scores, prior, count in zip(valid, log_priors, tokens, strict=True):
        losses += _tracking_nats(scores, prior, choices, count) / count
    return choices[int(losses.argmin())]


def _fit_gate(
    valid: list[NDArray[np.float32]],
    log_priors: list[Array],
    ensemble: EnsembleConfig,
    tokens: list[int],
    ids: Sequence[NDArray[Any]],
) -> EnsembleConfig:
    """Return `ensemble` with its gate fitted, unless it is given; `ids` are each shard's tokens."""
    if ensemble.gate is not None:
        return ensemble
    samples = []
    for logp_EST, prior_E, count, ids_N in zip(valid, log_priors, tokens, ids, strict=True):
        logp_EN = logp_EST.reshape(len(logp_EST), -1)[:, :count]
        new_text = 0 if ensemble.carry else logp_EST.shape[2]
        most = gate.SAMPLE // len(valid)
        samples.append(gate.Sample.of(logp_EN, prior_E, ids_N[:count], new_text, most=most))
    return replace(ensemble, gate=list(gate.fit(samples)))


def _tracking_nats(
    logp_EST: NDArray[np.float32], log_prior_E: Array, choices: list[EnsembleConfig], tokens: int
) -> Array:
    """Return the nats of each choice of α and β on the first `tokens` scores; likelihoods are made
    once for all.
    """
    nats = np.zeros(len(choices))
    beliefs: dict[int, Array] = {}
    for start, block_EST, log_prior_ES in blocks(logp_EST, log_prior_E, choices[0]):
        likelihoods, prior_ES = rules.Likelihoods.of(block_EST), np.exp(log_prior_ES)
        for i, choice in enumerate(choices):
            first_ES = None
            if choice.carry:
                begin_E = beliefs.get(i, prior_ES[:, 0])
                first_ES, beliefs[i] = likelihoods.carried(prior_ES, *choice.settings, begin_E)
            logp_ST = likelihoods.track_logp(prior_ES, *choice.settings, first_ES)
            nats[i] -= logp_ST.reshape(-1)[: tokens - start * logp_ST.shape[1]].sum()
    return nats
