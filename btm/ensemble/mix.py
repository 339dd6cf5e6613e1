"""Ensembles from cached scores, in numpy alone: the domain posterior of a shard, its mixture, its numbers.

A shard is S windows of T tokens scored by E experts: ``logp_EST``. Each window is a sequence of its own, whose
posterior begins anew from the prior, as in the paper, whose blocks are the model's context; or with `ensemble.carry`
it begins with what the window before it ended with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.schema import EnsembleConfig
from btm.ensemble import gate, posterior, rules
from btm.ensemble.posterior import Array

ALPHAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2)  # tried when α is fitted
BETAS = (0.8, 0.9, 0.95, 0.98, 1.0)  # tried when β is fitted
# From a shard's tokens and the length of a window (0: documents alone are contexts) to log w_j,t of consecutive
# tokens, (E, some): a `btm.ensemble.router.Route`.
Route = Callable[[NDArray[Any], int], Iterator[Array]]
_BLOCK = 1 << 19  # scores that are mixed at once: with their weights, what a cache holds
_STEP = 2048  # … but at least so many (expert, window) pairs: a step over fewer is all overhead


def is_fitted(ensemble: EnsembleConfig) -> bool:
    """Tell whether anything of `ensemble` is fitted on valid splits, so that it may not be measured there."""
    if ensemble.rule == "router":
        return False  # its features and centres come from train documents, and it asks no prior
    return ensemble.prior in ("cached", "em", "token") or _is_open(ensemble)


def _is_open(ensemble: EnsembleConfig) -> bool:
    """Tell whether an α, a β or a gate is to be fitted."""
    needed = {"tracking": ("alpha", "beta"), "fixed_share": ("alpha",), "gated": ("gate",)}
    return any(getattr(ensemble, key) is None for key in needed.get(ensemble.rule, ()))


def fit_prior(valid_EST: NDArray[np.float32], ensemble: EnsembleConfig) -> Array:
    """Return the log prior, shape (E,), that `ensemble` asks for, fitted on valid windows.

    Under the rule `router`, which asks none, all experts alike: it keeps its top-k for each context.
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


@dataclass(frozen=True)
class Mixed:
    """The ensemble on one shard: `logp` of every token, shape (T,), and the mean of each expert's weight, (E,)."""

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
    """Return the ensemble's result on a shard whose first `tokens` scores are real (the rest is padding).

    Experts that the prior leaves out are not read. `ids_N` are the shard's first tokens themselves, which the rules
    `gated` and `router` read; `route` gives the weights of the latter.
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
    for start, block_EST, prior_ES in _blocks(logp_EST, log_prior_E, ensemble):
        if ensemble.carry:
            first_ES, belief_E = rules.carried(ensemble.rule, block_EST, prior_ES, alpha, beta, belief_E)
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
    logp_EST: NDArray[np.float32], ensemble: EnsembleConfig, ids_N: NDArray[Any], route: Route | None
) -> Mixed:
    """Return what `mix` does under the rule `router`: Σ_j w_j,t p_j, whatever the experts' scores were before."""
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


def _blocks(
    logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig
) -> Iterator[tuple[int, NDArray[np.float32], Array]]:
    """Yield (first window, scores, log prior (E, S)) of so many windows as a processor's cache holds."""
    experts, n_windows, window = logp_EST.shape
    log_prior_ES = _priors(logp_EST, log_prior_E, ensemble)
    rows = max(1, _BLOCK // (experts * window), _STEP // experts)
    for start in range(0, n_windows, rows):
        stop = min(start + rows, n_windows)
        yield start, logp_EST[:, start:stop], log_prior_ES[:, start:stop]


def _priors(logp_EST: NDArray[np.float32], log_prior_E: Array, ensemble: EnsembleConfig) -> Array:
    """Return the log prior to begin each window with, shape (E, S): one for all, unless it is `updating`."""
    if ensemble.prior != "updating":
        return np.broadcast_to(log_prior_E[:, None], logp_EST.shape[:2])
    moving = posterior.moving_priors(logp_EST.swapaxes(0, 1), ensemble.decay)
    return np.stack([posterior.top_k(prior_E, ensemble.top_k) for prior_E in moving][:-1], axis=1)


def fit_rule(
    valid: list[NDArray[np.float32]],
    log_priors: list[Array],
    ensemble: EnsembleConfig,
    tokens: list[int],
    ids: Sequence[NDArray[Any]] | None = None,
) -> EnsembleConfig:
    """Return `ensemble` with what it leaves open of α, β and the gate set to what does best on valid shards.

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
    """Return the nats of each choice of α and β on the first `tokens` scores; likelihoods are made once for all."""
    nats = np.zeros(len(choices))
    beliefs: dict[int, Array] = {}
    for start, block_EST, log_prior_ES in _blocks(logp_EST, log_prior_E, choices[0]):
        likelihoods, prior_ES = rules.Likelihoods.of(block_EST), np.exp(log_prior_ES)
        for i, choice in enumerate(choices):
            first_ES = None
            if choice.carry:
                begin_E = beliefs.get(i, prior_ES[:, 0])
                first_ES, beliefs[i] = likelihoods.carried(prior_ES, *choice.settings, begin_E)
            logp_ST = likelihoods.track_logp(prior_ES, *choice.settings, first_ES)
            nats[i] -= logp_ST.reshape(-1)[: tokens - start * logp_ST.shape[1]].sum()
    return nats


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
    valid_tokens: int,
    ids: tuple[NDArray[Any], NDArray[Any]] | None = None,
    route: Route | None = None,
) -> dict[str, Any]:
    """Return the entry of evals/<name>.json for one shard of `size` (tokens, UTF-8 bytes).

    `names` are the ELMs of `logp_EST`, every one of them reported alone; `members` are those of the
    ensemble, and of `valid_EST`, on which its prior and what else `ensemble` leaves open are fitted. `ids` are
    the tokens of the shard and of valid, for the rules `gated` and `router`, and `route` is the latter's.
    """
    tokens, utf8_bytes = size
    rows = [names.index(member) for member in members]
    prior_E = fit_prior(valid_EST, ensemble)
    ids_N, valid_ids = (None, None) if ids is None else (ids[0], [ids[1]])
    ensemble = fit_rule([valid_EST], [prior_E], ensemble, [valid_tokens], valid_ids)
    mixed = mix(logp_EST[rows], prior_E, ensemble, tokens, ids_N, route)
    alone = -logp_EST.reshape(len(names), -1)[:, :tokens].sum(axis=1, dtype=np.float64)
    return {
        "tokens": tokens,
        "bytes": utf8_bytes,
        "ensemble": numbers(mixed.nats, tokens, utf8_bytes),
        "experts": {n: numbers(float(x), tokens, utf8_bytes) for n, x in zip(names, alone, strict=True)},
        **({} if ensemble.alpha is None else {"alpha": ensemble.alpha, "beta": ensemble.beta}),
        **({"gate": gate.named(ensemble.gate)} if ensemble.rule == "gated" and ensemble.gate else {}),
        "prior": {n: float(p) for n, p in zip(members, np.exp(prior_E), strict=True)},
        "mean_posterior": {n: float(p) for n, p in zip(members, mixed.mean_posterior, strict=True)},
    }
