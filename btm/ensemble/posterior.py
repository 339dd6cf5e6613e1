"""The domain posterior, the mixture and the priors of BTM (arXiv 2208.03306, section 2.2).

Shapes: E experts, S sequences, T tokens. Log-probabilities are in nats: ``logp_ET[j, t]`` is
log p(x_t | x_<t, D=j) of one sequence, ``logp_EST`` the same of several; ``log_prior_E`` is
log p(D=j), -inf for an expert that is left out. Sums are float64 in log space. numpy alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def domain_posterior(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Compute log p(D=j | x_<t), shape (E, T): the log posterior *before* token t is seen.

    p(D=j | x_<t) = p(x_<t | D=j) p(D=j) / Σ_j' p(x_<t | D=j') p(D=j')   (BTM, equation 2). Column 0
    is the prior; each column sums to 1 in probability.
    """
    joint_ET = _checked_joint(logp_ET, log_prior_E)[:, :-1]
    return joint_ET - logsumexp(joint_ET)


def mixture(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Compute log p(x_t | x_<t), shape (T,): the ensemble's own next-token log-probability.

    p(x_t | x_<t) = Σ_j p(x_t | x_<t, D=j) p(D=j | x_<t)   (BTM, equation 1). Its sum over t
    telescopes to logsumexp_j(log p(D=j) + Σ_t logp_ET[j, t]).
    """
    logp = _as_logp(logp_ET, 2)
    return logsumexp(domain_posterior(logp, log_prior_E) + logp)


def mix_sequences(logp_EST: NDArray[Any], log_prior_ES: Array) -> tuple[Array, Array]:
    """Compute equations 1 and 2 for many sequences at once, in place, as an evaluation does.

    Returns log p(x_t | x_<t), shape (S, T), and p(D=j | x_<t) as probabilities, shape (E, S, T).
    The first is the step of log p(x_≤t), to which `mixture` telescopes.
    """
    joint_EST = joint(logp_EST, log_prior_ES)
    top_ST = joint_EST.max(axis=0)
    joint_EST -= top_ST
    np.exp(joint_EST, out=joint_EST)
    total_ST = joint_EST.sum(axis=0)
    evidence_ST = np.log(total_ST) + top_ST
    joint_EST /= total_ST
    return np.diff(evidence_ST, axis=1), joint_EST[:, :, :-1]


def normalise(log_weights: Array) -> Array:
    """Shift log weights so that they sum to 1 in probability over axis 0, the experts."""
    return log_weights - np.logaddexp.reduce(log_weights, axis=0)


def final_posterior(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Compute log p(D=j | x_1..x_T), shape (E,): the log posterior after the whole sequence."""
    joint_E = _checked_joint(logp_ET, log_prior_E)[:, -1]
    return joint_E - logsumexp(joint_E)


def joint(logp: NDArray[Any], log_prior: Array) -> Array:
    """Sum log p(D=j, x_<t) for t = 0..T, shape (E, …, T + 1), of scores (E, …, T).

    The prior has the shape of the scores without their last axis. Scores are summed in float64,
    whatever they are: cumulative sums of long float32 sequences would drift.
    """
    sums = np.empty((*logp.shape[:-1], logp.shape[-1] + 1))
    sums[..., 0] = log_prior
    np.cumsum(logp, axis=-1, dtype=np.float64, out=sums[..., 1:])
    sums[..., 1:] += log_prior[..., None]
    return sums


def uniform_prior(experts: int) -> Array:
    """Give each of `experts` the same log prior, shape (E,)."""
    return np.full(experts, -np.log(experts))


def cached_prior(sequences: Iterable[ArrayLike], decay: float = 0.3) -> Array:
    """Fit the frozen log prior of BTM, shape (E,), on valid sequences of shape (E, T) each.

    The last of `moving_priors` (BTM, section 2.2, with λ = 0.3).
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
    """Fit the log prior, shape (E,), of the ensemble's greatest likelihood of valid sequences.

    Expectation-maximisation on Σ_s log Σ_j π_j p(x_s | D=j), which is concave in π, from the
    uniform prior: π_j ← mean_s p(D=j | x_s). It ends when no π_j moves by more than `tolerance`.
    """
    logp_ES = _as_logp(logp_EST, 3).sum(axis=2)
    log_prior = uniform_prior(len(logp_ES))
    for _ in range(iterations):
        joint_ES = log_prior[:, None] + logp_ES
        new = logsumexp((joint_ES - logsumexp(joint_ES)).T) - np.log(logp_ES.shape[1])
        moved = np.abs(np.exp(new) - np.exp(log_prior)).max()
        log_prior = new
        if moved <= tolerance:
            break
    return log_prior - logsumexp(log_prior)


def token_prior(logp_EST: ArrayLike, iterations: int = 1000, tolerance: float = 1e-7) -> Array:
    """Fit the log prior, shape (E,), of the plain mixture's greatest likelihood of valid *tokens*.

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
    """Restrict a log prior to its `k` likeliest experts and normalise it; the others get -inf.

    k = 0, or k ≥ E, keeps all. Those that weigh as much as the k-th are kept too: a prior that
    favours nobody leaves nobody out.
    """
    log_prior = np.asarray(log_prior_E, dtype=np.float64)
    if not 0 < k < len(log_prior):
        return log_prior - logsumexp(log_prior)
    kept = np.full_like(log_prior, -np.inf)
    best = log_prior >= np.sort(log_prior)[-k]
    kept[best] = log_prior[best]
    return kept - logsumexp(kept)


def perplexity(nats_per_token: float) -> float:
    """Compute exp(nats per token)."""
    return float(np.exp(nats_per_token))


def bits_per_byte(nats: float, utf8_bytes: int) -> float:
    """Convert total `nats` to bits per UTF-8 byte, which compare across tokenizers."""
    return float(nats / np.log(2) / utf8_bytes)


def _checked_joint(logp_ET: ArrayLike, log_prior_E: ArrayLike) -> Array:
    """Compute `joint` of one sequence; `ValueError` if scores and prior do not fit."""
    logp = _as_logp(logp_ET, 2)
    log_prior = np.asarray(log_prior_E, dtype=np.float64)
    if log_prior.shape != (len(logp),):
        raise ValueError(
            f"the prior has shape {log_prior.shape}; wanted ({len(logp)},), one entry an expert"
        )
    return joint(logp, log_prior)


def _as_logp(logp: ArrayLike, axes: int) -> Array:
    """Convert scores to float64; `ValueError` unless they have `axes` axes, experts first."""
    array = np.asarray(logp, dtype=np.float64)
    if array.ndim != axes or not array.shape[0]:
        raise ValueError(
            f"log-probabilities have shape {array.shape}; wanted {axes} axes, experts first"
        )
    return array


def logsumexp(array: Array) -> Any:
    """Compute log Σ exp over axis 0, without overflow; -inf is allowed."""
    top = array.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    return _log(np.exp(array - top).sum(axis=0)) + top


def _log(array: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(array)
