"""A posterior that forgets and switches: the recursion of the rules `tracking` and `fixed_share`.

    w_t+1 = (1 - α) normalise(w_t^β p(x_t | x_<t, D=j)) + α π

Shapes: E experts, S sequences, T tokens. Scores are log p(x_t | x_<t, D=j) in nats. One exponential
for each score, where none underflows; numpy alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import priors
from btm.ensemble.posterior import Array, logsumexp, normalise
from btm.ensemble.text import Flags, Text, blocks, resets

ALPHAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2)  # tried when α is fitted
BETAS = (0.8, 0.9, 0.95, 0.98, 1.0)  # tried when β is fitted

_SMALLEST = 1e-300
_LEAST_LOG = np.float32(-87.0)  # the least whose exponential is a normal float32


@dataclass(frozen=True)
class Likelihoods:
    """p(x_t | x_<t, D=j) over the likeliest expert's, computed once for any number of α and β.

    Each step reads one block of `ratio`, which is float32 where the scores are: an error of 1e-7 in
    a probability is no more than their own. The weights are float64 always. Where a ratio would
    underflow, and for α = 0, under which a weight may, the recursion runs on logarithms.
    """

    logp: NDArray[Any]  # (E, S, T)
    ratio: NDArray[np.floating[Any]]  # (T, E, S)
    top: NDArray[np.floating[Any]]  # log p of the likeliest, (S, T)
    extreme: Flags  # sequences with a ratio that is too small for a float32, (S,)

    @classmethod
    def of(cls, logp_EST: NDArray[np.floating[Any]]) -> "Likelihoods":
        """Divide the likelihoods by the likeliest expert's, from scores in nats."""
        top_ST = logp_EST.max(axis=0)
        ratio_EST = logp_EST - top_ST
        extreme_S = (ratio_EST < _LEAST_LOG).any(axis=(0, 2))
        np.maximum(ratio_EST, _LEAST_LOG, out=ratio_EST)
        np.exp(ratio_EST, out=ratio_EST)
        return cls(logp_EST, np.ascontiguousarray(np.moveaxis(ratio_EST, 2, 0)), top_ST, extreme_S)

    def track(
        self, log_prior_ES: Array, alpha: float, beta: float, log_first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        """Run the recursion from the prior, or from other weights before the first token.

        Returns the mixture's log-probabilities, shape (S, T), and the weights before each token,
        shape (E, S, T).
        """
        weights_TES = np.empty(self.ratio.shape)
        logp_ST = self._run(log_prior_ES, alpha, beta, weights_TES, log_first_ES)
        return logp_ST, np.moveaxis(weights_TES, 0, 2)

    def track_logp(self, log_prior_ES: Array, alpha: float, beta: float) -> Array:
        """Run `track` for the mixture's log-probabilities alone, shape (S, T)."""
        return self._run(log_prior_ES, alpha, beta, None)

    def _run(
        self,
        log_prior_ES: Array,
        alpha: float,
        beta: float,
        weights_TES: Array | None,
        log_first_ES: Array | None = None,
    ) -> Array:
        if not alpha or self.extreme.all():
            return _follow_logs(self.logp, log_prior_ES, alpha, beta, weights_TES, log_first_ES)
        first_ES = None if log_first_ES is None else np.exp(log_first_ES)
        logp_ST = self._follow(np.exp(log_prior_ES), alpha, beta, weights_TES, first_ES)
        if (some := np.flatnonzero(self.extreme)).size:
            shape = (len(self.ratio), len(self.logp), len(some))
            exact_TES = None if weights_TES is None else np.empty(shape)
            logp_ST[some] = _follow_logs(
                self.logp[:, some],
                log_prior_ES[:, some],
                alpha,
                beta,
                exact_TES,
                None if log_first_ES is None else log_first_ES[:, some],
            )
            if weights_TES is not None:
                weights_TES[:, :, some] = exact_TES
        return logp_ST

    def _follow(
        self,
        prior_ES: Array,
        alpha: float,
        beta: float,
        weights_TES: Array | None,
        first_ES: Array | None,
    ) -> Array:
        """Compute log Σ_j w_j,t p_j,t, (S, T).

        Writes the weights before each token into `weights_TES` where they are wanted. `first_ES`
        are those before the first; None: the prior.
        """
        totals_TS = np.empty((len(self.ratio), self.ratio.shape[2]))
        prior_ES = prior_ES / prior_ES.sum(axis=0)
        share_ES = alpha * prior_ES
        now_ES = prior_ES if first_ES is None else first_ES
        seen_ES = np.empty_like(now_ES)
        for t, ratio_ES in enumerate(self.ratio):
            if weights_TES is not None:
                weights_TES[t] = now_ES
            np.multiply(now_ES, ratio_ES, out=seen_ES)
            total_S = np.add.reduce(seen_ES, axis=0, out=totals_TS[t])
            # The mixture is under w_t itself; what w_t+1 is made of is under w_t^β.
            if beta != 1.0:
                np.multiply(_power(now_ES, beta), ratio_ES, out=seen_ES)
                total_S = np.add.reduce(seen_ES, axis=0)
            now_ES = seen_ES * ((1 - alpha) / np.maximum(total_S, _SMALLEST))
            now_ES += share_ES
        return np.log(np.maximum(totals_TS, _SMALLEST)).T + self.top


def _follow_logs(
    logp_EST: NDArray[Any],
    log_prior_ES: Array,
    alpha: float,
    beta: float,
    weights_TES: Array | None,
    log_first_ES: Array | None,
) -> Array:
    """Run the recursion on logarithms, in which nothing underflows; compute what `_follow` does."""
    log_prior_ES = normalise(log_prior_ES)
    with np.errstate(divide="ignore"):
        log_keep, log_share = np.log1p(-alpha), np.log(alpha)
    mixed_TS = np.empty((logp_EST.shape[2], logp_EST.shape[1]))
    now_ES = log_prior_ES if log_first_ES is None else log_first_ES
    for t in range(len(mixed_TS)):
        if weights_TES is not None:
            np.exp(now_ES, out=weights_TES[t])
        scores_ES = logp_EST[:, :, t].astype(np.float64)
        seen_ES = now_ES + scores_ES
        mixed_TS[t] = logsumexp(seen_ES)
        if beta != 1.0:
            seen_ES = beta * now_ES + scores_ES
        now_ES = seen_ES - logsumexp(seen_ES)
        if alpha:
            now_ES = np.logaddexp(log_keep + now_ES, log_share + log_prior_ES)
    return mixed_TS.T


def nats_of_choices(
    logp_EST: NDArray[np.float32],
    log_prior_E: Array,
    tokens: int,
    choices: list[tuple[float, float]],
    ensemble: EnsembleConfig,
    text: Text | None = None,
) -> Array:
    """Sum the nats of the first `tokens` scores under each choice of (α, β).

    Likelihoods are computed once for all choices; prior and `carry` are those of `ensemble`.
    """
    experts, _, window = logp_EST.shape
    logp_EN = logp_EST.reshape(experts, -1)[:, :tokens]
    resets_N = resets(ensemble.carry, tokens, window, text)
    log_prior_EQ = priors.of_sequences(logp_EN, resets_N, log_prior_E, ensemble)
    nats = np.zeros(len(choices))
    for block in blocks(logp_EN, resets_N):
        likelihoods = Likelihoods.of(block.logp)
        log_prior_ES = log_prior_EQ[:, block.sequences]
        for i, (alpha, beta) in enumerate(choices):
            logp_ST = likelihoods.track_logp(log_prior_ES, alpha, beta)
            nats[i] -= logp_ST[block.real].sum()
    return nats


def _power(weights: Array, beta: float) -> Array:
    """Raise weights to the power β; 0 stays 0."""
    with np.errstate(divide="ignore"):
        powers = np.log(weights)
    powers *= beta
    return np.exp(powers, out=powers)
