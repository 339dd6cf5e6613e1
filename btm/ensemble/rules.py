"""How the weights of an ensemble follow the tokens: a family of posteriors, each with its equation.

Every rule takes ``logp_EST`` (log p(x_t | x_<t, D=j) in nats: E experts, S sequences, T tokens) and
a log prior, shape (E,) or one a sequence (E, S), and returns two arrays: the mixture's
log-probability of each token, shape (S, T), and the weights w_j,t that it had *before* it saw token
t, shape (E, S, T). For all of them p(x_t | x_<t) = Σ_j w_j,t p(x_t | x_<t, D=j). One pass, one
exponential for each score, numpy alone.

A sequence begins from the prior π, as in the paper, or from the log weights `first_ES`: `carried`
finds the ones with which each window of a text takes up the belief that the window before it ended
with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mixed = tuple[Array, Array]
_SMALLEST = 1e-300
_NEAR = 64  # tokens from which a window's first belief is guessed
_SAME = 1e-12  # weights that differ by less are one
_LEAST_LOG = np.float32(-87.0)  # the least whose exponential is a normal float32


def bayes(
    logp_EST: ArrayLike,
    log_prior_E: ArrayLike,
    alpha: float = 0.0,
    beta: float = 1.0,
    first_ES: Array | None = None,
) -> Mixed:
    """Weigh by the posterior of the whole prefix: w_t ∝ π p(x_<t | D=j) (BTM, arXiv 2208.03306,
    equation 2).

    Under a frozen prior these are the paper's `uniform`, `cached` and, with a moving one,
    `updating`.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E if first_ES is None else first_ES)
    joint = np.empty((*logp.shape[:2], logp.shape[2] + 1))
    joint[:, :, 0] = log_prior
    np.cumsum(logp, axis=2, dtype=np.float64, out=joint[:, :, 1:])
    joint[:, :, 1:] += log_prior[:, :, None]
    top = joint.max(axis=0)
    joint -= top
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    evidence = np.log(total) + top
    joint /= total
    return np.diff(evidence, axis=1), joint[:, :, :-1]


def simple(
    logp_EST: ArrayLike,
    log_prior_E: ArrayLike,
    alpha: float = 0.0,
    beta: float = 1.0,
    first_ES: Array | None = None,
) -> Mixed:
    """Weigh by the prior for ever: w_t = π. Under a uniform prior, the plain average of
    probabilities.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    return Likelihoods.of(logp).mixed(np.exp(log_prior)[None])


def last_token(
    logp_EST: ArrayLike,
    log_prior_E: ArrayLike,
    alpha: float = 0.0,
    beta: float = 1.0,
    first_ES: Array | None = None,
) -> Mixed:
    """Weigh by the last token alone: w_t ∝ π p(x_t-1 | x_<t-1, D=j), w_0 = uniform.

    What the code released with DEMix layers computes (kernelmachine/demix, sequence_scorer.py), and
    not what the paper writes; kept to replicate its numbers.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    likelihoods = Likelihoods.of(logp)
    weights_TES = np.empty(likelihoods.ratio.shape)
    weights_TES[0] = 1 / len(logp) if first_ES is None else np.exp(first_ES)
    np.multiply(likelihoods.ratio[:-1], np.exp(log_prior), out=weights_TES[1:])
    weights_TES[1:] /= weights_TES[1:].sum(axis=1, keepdims=True)
    return likelihoods.mixed(weights_TES)


def tracking(
    logp_EST: ArrayLike,
    log_prior_E: ArrayLike,
    alpha: float = 0.05,
    beta: float = 1.0,
    first_ES: Array | None = None,
) -> Mixed:
    """Weigh by a posterior that forgets and may switch.

    w_t+1 = (1 - α) normalise(w_t^β p(x_t | x_<t, D=j)) + α π. With α > 0 the loss is bounded
    against the best *sequence* of experts (fixed share: Herbster and Warmuth, Machine Learning 32,
    1998); β < 1 forgets old tokens. Bayes' rule on the whole prefix, α = 0 and β = 1, can do
    neither, and documents change topic.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    first = None if first_ES is None else np.exp(first_ES)
    return Likelihoods.of(logp).track(np.exp(log_prior), alpha, beta, first)


@dataclass(frozen=True)
class Likelihoods:
    """p(x_t | x_<t, D=j) over the likeliest expert's, made once for any number of α and β.

    Each step of `tracking` reads one block of `ratio`, which is float32 where the scores are: an
    error of 1e-7 in a probability is no more than their own. The weights are float64 always.
    """

    ratio: NDArray[np.floating[Any]]  # (T, E, S)
    top: NDArray[np.floating[Any]]  # log p of the likeliest, (S, T)

    @classmethod
    def of(cls, logp_EST: NDArray[np.floating[Any]]) -> "Likelihoods":
        """Return those of scores in nats."""
        top = logp_EST.max(axis=0)
        ratio_EST = logp_EST - top
        np.maximum(
            ratio_EST, _LEAST_LOG, out=ratio_EST
        )  # a weight that became 0 would never return
        np.exp(ratio_EST, out=ratio_EST)
        return cls(np.ascontiguousarray(np.moveaxis(ratio_EST, 2, 0)), top)

    def track(
        self, prior_ES: Array, alpha: float, beta: float, first_ES: Array | None = None
    ) -> Mixed:
        """Return what `tracking` does; prior and first weights are probabilities."""
        weights_TES = np.empty(self.ratio.shape)
        totals_TS, _ = self._follow(prior_ES, alpha, beta, first_ES, weights_TES)
        return self._log(totals_TS), np.moveaxis(weights_TES, 0, 2)

    def track_logp(
        self, prior_ES: Array, alpha: float, beta: float, first_ES: Array | None = None
    ) -> Array:
        """Return the mixture's log-probabilities alone, (S, T)."""
        return self._log(self._follow(prior_ES, alpha, beta, first_ES)[0])

    def carried(
        self, prior_ES: Array, alpha: float, beta: float, begin_E: Array
    ) -> tuple[Array, Array]:
        """Return the weights each window begins with when it takes up where the one before ended,
        and the last's end.

        All windows run at once, from a guess by the last tokens before them; those whose beginning
        turns out different run again, until none does. After k rounds the first k windows are exact
        in any case.
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

    def mixed(self, weights_TES: Array) -> Mixed:
        """Return the mixture under given weights, which may be the same for every token: (1,
        E, S).
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
        """Return Σ_j w_j,t ratio_j,t, (T, S), and the weights after the last token, (E, S).

        Writes the weights before each token into `weights_TES` where they are wanted.
        """
        totals_TS = np.empty((len(self.ratio), self.ratio.shape[2]))
        prior_ES = prior_ES / prior_ES.sum(axis=0)
        share = alpha * prior_ES
        now = prior_ES if first_ES is None else first_ES
        seen = np.empty_like(now)
        for t, ratio in enumerate(self.ratio):
            if weights_TES is not None:
                weights_TES[t] = now
            np.multiply(now, ratio, out=seen)
            total = np.add.reduce(seen, axis=0, out=totals_TS[t])
            if beta != 1.0:
                np.multiply(_power(now, beta), ratio, out=seen)
                total = np.add.reduce(seen, axis=0)
            now = seen * ((1 - alpha) / np.maximum(total, _SMALLEST))
            if alpha:
                now += share
        return totals_TS, now


def fixed_share(
    logp_EST: ArrayLike,
    log_prior_E: ArrayLike,
    alpha: float = 0.05,
    beta: float = 1.0,
    first_ES: Array | None = None,
) -> Mixed:
    """Weigh as `tracking` without forgetting: w_t+1 = (1 - α) normalise(w_t p(x_t | x_<t, D=j)) + α
    π.
    """
    return tracking(logp_EST, log_prior_E, alpha, 1.0, first_ES)


def carried(
    rule: str,
    logp_EST: ArrayLike,
    log_prior_E: ArrayLike,
    alpha: float,
    beta: float,
    begin_E: Array | None = None,
) -> tuple[Array, Array]:
    """Return log weights that consecutive windows of one text begin with, (E, S), and those after
    the last, (E,).

    The belief is not reset between windows: the ensemble has read the whole text, the experts their
    windows alone. `begin_E` are the log weights before the first window; None begins the text from
    the prior.
    """
    logp, log_prior = _checked(logp_EST, log_prior_E)
    if rule == "simple":
        return log_prior, log_prior[:, -1]
    if rule == "last_token":
        end_ES = logp[:, :, -1] + log_prior
        begin_E = np.full(len(logp), -np.log(len(logp))) if begin_E is None else begin_E
        first_ES = np.concatenate([begin_E[:, None], end_ES[:, :-1]], axis=1)
        return _normalised(first_ES), _normalised(end_ES[:, -1:])[:, 0]
    begin_E = _normalised(log_prior[:, :1])[:, 0] if begin_E is None else begin_E
    alpha, beta = SETTINGS[rule](alpha, beta)
    if (alpha, beta) == (0.0, 1.0):
        joint_ES = begin_E[:, None] + np.cumsum(logp.sum(axis=2, dtype=np.float64), axis=1)
        first_ES = np.concatenate([begin_E[:, None], joint_ES[:, :-1]], axis=1)
        return _normalised(first_ES), _normalised(joint_ES[:, -1:])[:, 0]
    first_ES, end_E = Likelihoods.of(logp).carried(np.exp(log_prior), alpha, beta, np.exp(begin_E))
    with np.errstate(divide="ignore"):
        return np.log(first_ES), np.log(end_E)


def _normalised(log_weights_ES: Array) -> Array:
    return log_weights_ES - np.logaddexp.reduce(log_weights_ES, axis=0)


# α and β of what is one recursion: bayes is tracking that neither switches nor forgets.
SETTINGS: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "bayes": lambda alpha, beta: (0.0, 1.0),
    "fixed_share": lambda alpha, beta: (alpha, 1.0),
    "tracking": lambda alpha, beta: (alpha, beta),
}


class Belief:
    """The weights of one sequence, token by token: what the rules above do, for a reader that
    cannot look ahead.

    Kept in log space, so that with α = 0 no expert is ever lost.
    """

    def __init__(
        self, rule: str, log_prior_E: ArrayLike, alpha: float = 0.0, beta: float = 1.0
    ) -> None:
        """Begin from the prior, with α and β as `rule` takes them; `ValueError` for a rule that is
        none.
        """
        if rule not in RULES:
            raise ValueError(f"no rule {rule!r}; have: {', '.join(RULES)}")
        prior_E = np.asarray(log_prior_E, np.float64)
        self._log_prior_E = prior_E - np.logaddexp.reduce(prior_E)
        self._rule = rule
        self._alpha, self._beta = SETTINGS.get(rule, SETTINGS["bayes"])(alpha, beta)
        self._log_weights_E = self._log_prior_E
        if rule == "last_token":
            self._log_weights_E = np.full(len(prior_E), -np.log(len(prior_E)))

    @property
    def log_weights(self) -> Array:
        """The log weight of each expert before the next token, shape (E,); they sum to 1 in
        probability.
        """
        return self._log_weights_E

    def see(self, logp_E: ArrayLike, token: int = -1) -> float:
        """Take in log p(x_t | x_<t, D=j) of the token that came; return the mixture's log p(x_t |
        x_<t).

        These rules ask for no more; which token it was makes no difference.
        """
        logp_E = np.asarray(logp_E, np.float64)
        mixed = float(np.logaddexp.reduce(self._log_weights_E + logp_E))
        if self._rule == "simple":
            return mixed
        before_E = (
            self._log_prior_E if self._rule == "last_token" else self._beta * self._log_weights_E
        )
        seen_E = before_E + logp_E
        seen_E -= np.logaddexp.reduce(seen_E)
        if self._alpha:
            with np.errstate(divide="ignore"):
                shares = np.log([1 - self._alpha, self._alpha])
            seen_E = np.logaddexp(shares[0] + seen_E, shares[1] + self._log_prior_E)
        self._log_weights_E = seen_E
        return mixed


RULES: dict[str, Callable[..., Mixed]] = {
    "bayes": bayes,
    "simple": simple,
    "last_token": last_token,
    "fixed_share": fixed_share,
    "tracking": tracking,
}


def _power(weights: Array, beta: float) -> Array:
    """Return weights^β; 0 stays 0."""
    with np.errstate(divide="ignore"):
        powers = np.log(weights)
    powers *= beta
    return np.exp(powers, out=powers)


def _checked(logp: ArrayLike, log_prior: ArrayLike) -> tuple[NDArray[Any], Array]:
    """Return scores, float32 or float64, (E, S, T), and prior, (E, S); `ValueError` if they do not
    fit.
    """
    scores, prior = np.asarray(logp), np.asarray(log_prior, np.float64)
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    if scores.ndim != 3 or not scores.shape[0]:
        raise ValueError(
            f"log-probabilities have shape {scores.shape}; wanted (experts, sequences, tokens)"
        )
    if prior.shape not in (scores.shape[:1], scores.shape[:2]):
        raise ValueError(
            f"the prior has shape {prior.shape}; wanted {scores.shape[:1]} or {scores.shape[:2]}"
        )
    return scores, np.broadcast_to(
        prior.reshape(*prior.shape, *[1] * (2 - prior.ndim)), scores.shape[:2]
    )
