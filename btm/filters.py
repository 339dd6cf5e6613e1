"""How the weights of an ensemble follow the tokens: a family of posteriors, each with its equation.

Every rule takes ``logp_EST`` (log p(x_t | x_<t, D=j) in nats: E experts, S sequences, T tokens) and a log
prior, shape (E,) or one a sequence (E, S), and returns two arrays: the mixture's log-probability of each
token, shape (S, T), and the weights w_j,t that it had *before* it saw token t, shape (E, S, T). For all of them
p(x_t | x_<t) = Σ_j w_j,t p(x_t | x_<t, D=j). One pass, one exponential for each score, numpy alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mixed = tuple[Array, Array]
_SMALLEST = 1e-300


def bayes(logp_EST: ArrayLike, log_prior_E: ArrayLike, alpha: float = 0.0, beta: float = 1.0) -> Mixed:
    """Weigh by the posterior of the whole prefix: w_t ∝ π p(x_<t | D=j) (BTM, arXiv 2208.03306, equation 2).

    Under a frozen prior these are the paper's `uniform`, `cached` and, with a moving one, `updating`.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    joint = np.empty((*logp.shape[:2], logp.shape[2] + 1))
    joint[:, :, 0] = log_prior
    np.cumsum(logp, axis=2, out=joint[:, :, 1:])
    joint[:, :, 1:] += log_prior[:, :, None]
    top = joint.max(axis=0)
    joint -= top
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    evidence = np.log(total) + top
    joint /= total
    return np.diff(evidence, axis=1), joint[:, :, :-1]


def simple(logp_EST: ArrayLike, log_prior_E: ArrayLike, alpha: float = 0.0, beta: float = 1.0) -> Mixed:
    """Weigh by the prior for ever: w_t = π. Under a uniform prior, the plain average of probabilities."""
    logp, log_prior = _checked(logp_EST, log_prior_E)
    weights = np.broadcast_to(np.exp(log_prior)[:, :, None], logp.shape)
    return _mixture(logp, weights), np.array(weights)


def last_token(logp_EST: ArrayLike, log_prior_E: ArrayLike, alpha: float = 0.0, beta: float = 1.0) -> Mixed:
    """Weigh by the last token alone: w_t ∝ π p(x_t-1 | x_<t-1, D=j), w_0 = uniform.

    What the code released with DEMix layers computes (kernelmachine/demix, sequence_scorer.py), and not what
    the paper writes; kept to replicate its numbers.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    weights = np.empty(logp.shape)
    weights[:, :, 0] = 1.0
    joint = logp[:, :, :-1] + log_prior[:, :, None]
    weights[:, :, 1:] = np.exp(joint - joint.max(axis=0))
    weights /= weights.sum(axis=0)
    return _mixture(logp, weights), weights


def tracking(logp_EST: ArrayLike, log_prior_E: ArrayLike, alpha: float = 0.05, beta: float = 1.0) -> Mixed:
    """Weigh by a posterior that forgets and may switch.

    w_t+1 = (1 - α) normalise(w_t^β p(x_t | x_<t, D=j)) + α π. With α > 0 the loss is bounded against the best
    *sequence* of experts (fixed share: Herbster and Warmuth, Machine Learning 32, 1998); β < 1 forgets old
    tokens. Bayes' rule on the whole prefix, α = 0 and β = 1, can do neither, and documents change topic.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    prior = np.exp(log_prior)
    top = logp.max(axis=0)
    likelihood = np.exp(np.moveaxis(logp - top, 2, 0), order="C")  # (T, E, S): each step reads one block
    weights = np.empty_like(likelihood)
    totals = np.empty((logp.shape[2], logp.shape[1]))
    now = prior / prior.sum(axis=0)
    for t in range(len(weights)):
        weights[t] = now
        seen = now * likelihood[t]
        totals[t] = seen.sum(axis=0)
        if beta != 1.0:
            seen = np.power(now, beta) * likelihood[t]
        now = seen * ((1 - alpha) / np.maximum(seen.sum(axis=0), _SMALLEST))
        now += alpha * prior
        now /= now.sum(axis=0)
    return np.log(np.maximum(totals, _SMALLEST)).T + top, np.moveaxis(weights, 0, 2)


def fixed_share(logp_EST: ArrayLike, log_prior_E: ArrayLike, alpha: float = 0.05, beta: float = 1.0) -> Mixed:
    """Weigh as `tracking` without forgetting: w_t+1 = (1 - α) normalise(w_t p(x_t | x_<t, D=j)) + α π."""
    return tracking(logp_EST, log_prior_E, alpha, 1.0)


RULES: dict[str, Callable[..., Mixed]] = {
    "bayes": bayes,
    "simple": simple,
    "last_token": last_token,
    "fixed_share": fixed_share,
    "tracking": tracking,
}


def _mixture(logp: Array, weights: Array) -> Array:
    top = logp.max(axis=0)
    total: Any = (weights * np.exp(logp - top)).sum(axis=0)
    return np.log(np.maximum(total, _SMALLEST)) + top


def _checked(logp: ArrayLike, log_prior: ArrayLike) -> tuple[Array, Array]:
    """Return both in float64 with shapes (E, S, T) and (E, S); `ValueError` if they do not fit."""
    scores, prior = np.asarray(logp, np.float64), np.asarray(log_prior, np.float64)
    if scores.ndim != 3 or not scores.shape[0]:
        raise ValueError(f"log-probabilities have shape {scores.shape}; wanted (experts, sequences, tokens)")
    if prior.shape not in (scores.shape[:1], scores.shape[:2]):
        raise ValueError(
            f"the prior has shape {prior.shape}; wanted {scores.shape[:1]} or {scores.shape[:2]}"
        )
    return scores, np.broadcast_to(prior.reshape(*prior.shape, *[1] * (2 - prior.ndim)), scores.shape[:2])
