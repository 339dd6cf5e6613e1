"""A posterior that forgets and switches: the recursion of the rules `tracking` and `fixed_share`.

    w_t+1 = (1 - α) normalise(w_t^β p(x_t | x_<t, D=j)) + α π

Shapes: E experts, S sequences, T tokens. Scores are log p(x_t | x_<t, D=j) in nats; weights and
priors are probabilities here. One exponential for each score; numpy alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble.posterior import Array
from btm.ensemble.windows import blocks

ALPHAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2)  # tried when α is fitted
BETAS = (0.8, 0.9, 0.95, 0.98, 1.0)  # tried when β is fitted

_SMALLEST = 1e-300
_NEAR = 64  # tokens that the first guess of a window's beginning is made from
_SAME = 1e-12  # weights that differ by less are the same
_LEAST_LOG = np.float32(-87.0)  # the least whose exponential is a normal float32


@dataclass(frozen=True)
class Likelihoods:
    """p(x_t | x_<t, D=j) over the likeliest expert's, computed once for any number of α and β.

    Each step reads one block of `ratio`, which is float32 where the scores are: an error of 1e-7 in
    a probability is no more than their own. The weights are float64 always.
    """

    ratio: NDArray[np.floating[Any]]  # (T, E, S)
    top: NDArray[np.floating[Any]]  # log p of the likeliest, (S, T)

    @classmethod
    def of(cls, logp_EST: NDArray[np.floating[Any]]) -> "Likelihoods":
        """Divide the likelihoods by the likeliest expert's, from scores in nats."""
        top_ST = logp_EST.max(axis=0)
        ratio_EST = logp_EST - top_ST
        # A weight that became 0 would never return.
        np.maximum(ratio_EST, _LEAST_LOG, out=ratio_EST)
        np.exp(ratio_EST, out=ratio_EST)
        return cls(np.ascontiguousarray(np.moveaxis(ratio_EST, 2, 0)), top_ST)

    def track(
        self, prior_ES: Array, alpha: float, beta: float, first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        """Run the recursion from `first_ES`, or else from the prior.

        Returns the mixture's log-probabilities, shape (S, T), and the weights before each token,
        shape (E, S, T).
        """
        weights_TES = np.empty(self.ratio.shape)
        totals_TS, _ = self._follow(prior_ES, alpha, beta, first_ES, weights_TES)
        return self._log(totals_TS), np.moveaxis(weights_TES, 0, 2)

    def track_logp(
        self, prior_ES: Array, alpha: float, beta: float, first_ES: Array | None = None
    ) -> Array:
        """Run `track` for the mixture's log-probabilities alone, shape (S, T)."""
        return self._log(self._follow(prior_ES, alpha, beta, first_ES)[0])

    def carry(
        self, prior_ES: Array, alpha: float, beta: float, begin_E: Array
    ) -> tuple[Array, Array]:
        """Continue the recursion through consecutive windows of a text.

        Returns the weights that each window begins with, shape (E, S), and those after the last,
        shape (E,). All windows run at once, from a guess by the last tokens before them; those
        whose beginning turns out different run again, until none does. After k rounds the first k
        windows are exact in any case.
        """
        first_ES: Array = np.array(prior_ES)
        first_ES[:, 0] = begin_E
        near = Likelihoods(self.ratio[-_NEAR:], self.top[:, -_NEAR:])
        first_ES[:, 1:] = near._follow(prior_ES, alpha, beta)[1][:, :-1]
        end_ES = np.empty_like(first_ES)
        again = np.arange(first_ES.shape[1])
        while len(again):
            every = len(again) == first_ES.shape[1]
            some = self if every else Likelihoods(self.ratio[:, :, again], self.top[again])
            _, end_ES[:, again] = some._follow(prior_ES[:, again], alpha, beta, first_ES[:, again])
            moved = np.abs(end_ES[:, :-1] - first_ES[:, 1:]).max(axis=0) > _SAME
            again = np.flatnonzero(moved) + 1
            first_ES[:, again] = end_ES[:, again - 1]
        return first_ES, end_ES[:, -1]

    def mix(self, weights_TES: Array) -> tuple[Array, Array]:
        """Mix under given weights, (T, E, S), or (1, E, S) for the same at every token.

        Returns log-probabilities, shape (S, T), and the weights, shape (E, S, T).
        """
        every_TES = np.broadcast_to(weights_TES, self.ratio.shape)
        totals_TS = np.einsum("tes,tes->ts", self.ratio, every_TES)
        return self._log(totals_TS), np.moveaxis(every_TES, 0, 2)

    def _log(self, totals_TS: Array) -> Array:
        return np.log(np.maximum(totals_TS, _SMALLEST)).T + self.top

    def _follow(
        self,
        prior_ES: Array,
        alpha: float,
        beta: float,
        first_ES: Array | None = None,
        weights_TES: Array | None = None,
    ) -> tuple[Array, Array]:
        """Compute Σ_j w_j,t ratio_j,t, (T, S), and the weights after the last token, (E, S).

        Writes the weights before each token into `weights_TES` where they are wanted.
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
            if alpha:
                now_ES += share_ES
        return totals_TS, now_ES


def nats_of_choices(
    logp_EST: NDArray[np.float32],
    log_prior_E: Array,
    tokens: int,
    choices: list[tuple[float, float]],
    ensemble: EnsembleConfig,
) -> Array:
    """Sum the nats of the first `tokens` scores under each choice of (α, β).

    Likelihoods are computed once for all choices; prior and `carry` are those of `ensemble`.
    """
    nats = np.zeros(len(choices))
    ends: dict[int, Array] = {}  # by choice, the weights after the windows so far
    for start, block_EST, log_prior_ES in blocks(logp_EST, log_prior_E, ensemble):
        likelihoods, prior_ES = Likelihoods.of(block_EST), np.exp(log_prior_ES)
        for i, (alpha, beta) in enumerate(choices):
            first_ES = None
            if ensemble.carry:
                begin_E = ends.get(i, prior_ES[:, 0])
                first_ES, ends[i] = likelihoods.carry(prior_ES, alpha, beta, begin_E)
            logp_ST = likelihoods.track_logp(prior_ES, alpha, beta, first_ES)
            nats[i] -= logp_ST.reshape(-1)[: tokens - start * logp_ST.shape[1]].sum()
    return nats


def _power(weights: Array, beta: float) -> Array:
    """Raise weights to the power β; 0 stays 0."""
    with np.errstate(divide="ignore"):
        powers = np.log(weights)
    powers *= beta
    return np.exp(powers, out=powers)
