"""The mathematics of the ensemble: domain posterior, priors, mixture (BTM, arXiv 2208.03306,
section 2.2).

Shapes: E experts, S sequences, T tokens. Everything is float64 in log space, in nats:
``logp_ET[j, t]`` is log p(x_t | x_<t, D=j) of one sequence, ``logp_EST`` the same of several, and
``log_prior_E`` is log p(D=j). A prior may hold -inf for an expert that is left out. numpy alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def domain_posterior(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Return log p(D=j | x_<t), shape (E, T): what the ensemble believes *before* it sees token t.

    p(D=j | x_<t) = p(x_<t | D=j) p(D=j) / Σ_j' p(x_<t | D=j') p(D=j')   (BTM, equation 2). Column 0
    is the prior; each column sums to 1 in probability.
    """
    joint_ET = _joint(logp_ET, log_prior_E)[:, :-1]
    return joint_ET - _logsumexp(joint_ET)


def mixture(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Return log p(x_t | x_<t), shape (T,): the ensemble's own next-token log-probability.

    p(x_t | x_<t) = Σ_j p(x_t | x_<t, D=j) p(D=j | x_<t)   (BTM, equation 1). Its sum over t
    telescopes to logsumexp_j(log p(D=j) + Σ_t logp_ET[j, t]).
    """
    logp = _as_logp(logp_ET, 2)
    return _logsumexp(domain_posterior(logp, log_prior_E) + logp)


def final_posterior(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Return log p(D=j | x_1..x_T), shape (E,): the belief after the whole sequence."""
    joint_E = _joint(logp_ET, log_prior_E)[:, -1]
    return joint_E - _logsumexp(joint_E)


def uniform_prior(experts: int) -> Array:
    """Return the log prior that gives each of `experts` the same weight, shape (E,)."""
    return np.full(experts, -np.log(experts))


def cached_prior(sequences: Iterable[ArrayLike], decay: float = 0.3) -> Array:
    """Return the frozen log prior of BTM, shape (E,), from valid sequences of shape (E, T) each.

    What `moving_priors` holds after the last sequence (BTM, section 2.2, with λ = 0.3).
    Raises `ValueError` if there is no sequence.
    """
    priors = deque(moving_priors(sequences, decay), maxlen=1)
    if not priors:
        raise ValueError("no sequence to fit the cached prior on")
    return priors[0]


def moving_priors(sequences: Iterable[ArrayLike], decay: float = 0.3) -> Iterator[Array]:
    """Yield log priors of shape (E,): the uniform one, then one more after each (E, T) sequence.

    An exponential moving average of posteriors under a uniform prior: π ← (1 - λ) π + λ p(D |
    sequence). Zipped with its own sequences it is the paper's `updating` prior, which needs no
    valid data.
    """
    prior_E: Array | None = None
    for logp_ET in sequences:
        logp = _as_logp(logp_ET, 2)
        uniform = uniform_prior(len(logp))
        if prior_E is None:
            prior_E = np.exp(uniform)
            yield uniform
        prior_E = (1 - decay) * prior_E + decay * np.exp(final_posterior(logp, uniform))
        yield _log(prior_E / prior_E.sum())


def em_prior(logp_EST: ArrayLike, iterations: int = 1000, tolerance: float = 1e-12) -> Array:
    """Return the log prior, shape (E,), that maximises the ensemble's likelihood of valid
    sequences.

    Expectation-maximisation on Σ_s log Σ_j π_j p(x_s | D=j), which is concave in π, from the
    uniform prior: π_j ← mean_s p(D=j | x_s). It ends when no π_j moves by more than `tolerance`.
    """
    logp_ES = _as_logp(logp_EST, 3).sum(axis=2)
    log_prior = uniform_prior(len(logp_ES))
    for _ in range(iterations):
        joint_ES = log_prior[:, None] + logp_ES
        new = _logsumexp((joint_ES - _logsumexp(joint_ES)).T) - np.log(logp_ES.shape[1])
        moved = np.abs(np.exp(new) - np.exp(log_prior)).max()
        log_prior = new
        if moved <= tolerance:
            break
    return log_prior - _logsumexp(log_prior)


def token_prior(logp_EST: ArrayLike, iterations: int = 1000, tolerance: float = 1e-7) -> Array:
    """Return the log prior, shape (E,), that maximises the likelihood of valid *tokens* under their
    plain mixture.

    Expectation-maximisation on Σ_s,t log Σ_j π_j p(x_t | x_<t, D=j), concave in π: what each expert
    is worth in a mixture, where `em_prior` asks how often an expert explains a whole sequence best.
    It is the better target for a rule that may switch within a text. Ends when no π_j moves by more
    than `tolerance`.
    """
    logp = _as_logp(logp_EST, 3)
    logp_EN = logp.reshape(len(logp), -1)
    likelihood_EN = np.exp(logp_EN - logp_EN.max(axis=0))
    prior_E = np.exp(uniform_prior(len(logp)))
    for _ in range(iterations):
        gain_E = likelihood_EN @ (1 / (prior_E @ likelihood_EN)) / likelihood_EN.shape[1]
        moved = np.abs(gain_E * prior_E - prior_E).max()
        prior_E = gain_E * prior_E
        if moved <= tolerance:
            break
    return _log(prior_E / prior_E.sum())


def top_k(log_prior_E: ArrayLike, k: int) -> Array:
    """Return the log prior restricted to its `k` likeliest experts and normalised; the others get
    -inf.

    k = 0, or k ≥ E, keeps all. Equal weights are kept in the order of the experts.
    """
    log_prior = np.asarray(log_prior_E, dtype=np.float64)
    if not 0 < k < len(log_prior):
        return log_prior - _logsumexp(log_prior)
    kept = np.full_like(log_prior, -np.inf)
    best = np.argsort(-log_prior, kind="stable")[:k]
    kept[best] = log_prior[best]
    return kept - _logsumexp(kept)


def perplexity(nats_per_token: float) -> float:
    """Return exp(nats per token)."""
    return float(np.exp(nats_per_token))


def bits_per_byte(nats: float, utf8_bytes: int) -> float:
    """Return the total `nats` as bits for each UTF-8 byte: comparable across tokenizers."""
    return float(nats / np.log(2) / utf8_bytes)


def _joint(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Return log p(D=j, x_<t) for t = 0..T, shape (E, T + 1)."""
    logp = _as_logp(logp_ET, 2)
    log_prior = np.asarray(log_prior_E, dtype=np.float64)
    if log_prior.shape != (len(logp),):
        raise ValueError(
            f"the prior has shape {log_prior.shape}; wanted ({len(logp)},), one entry an expert"
        )
    prefix_ET = np.zeros((logp.shape[0], logp.shape[1] + 1))
    np.cumsum(logp, axis=1, out=prefix_ET[:, 1:])
    return log_prior[:, None] + prefix_ET


def _as_logp(logp: ArrayLike, axes: int) -> Array:
    """Return `logp` in float64, checked: cumulative sums of long float32 sequences would drift."""
    array = np.asarray(logp, dtype=np.float64)
    if array.ndim != axes or not array.shape[0]:
        raise ValueError(
            f"log-probabilities have shape {array.shape}; wanted {axes} axes, experts first"
        )
    return array


def _logsumexp(array: Array) -> Any:
    """Return log Σ exp over axis 0, without overflow and with -inf allowed."""
    top = array.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    return _log(np.exp(array - top).sum(axis=0)) + top


def _log(array: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(array)
