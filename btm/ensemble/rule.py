"""The interface of an ensemble's rules, and the base class of rules that mix window by window.

A *rule* says how the weights of the experts follow the text: p(x_t | x_<t) = Σ_j w_j,t
p(x_t | x_<t, D=j), where w_j,t depends on the text before token t alone. The seven rules are in
`btm/ensemble/rules.py`.

Shapes: E experts, S windows, T tokens of a window, N tokens of a shard in order. Scores are
log p(x_t | x_<t, D=j) in nats: ``logp_EST``, or ``logp_E`` of one token. A log prior is (E,), -inf
for an expert that is left out. numpy alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior, priors
from btm.ensemble.posterior import Array, normalise
from btm.ensemble.windows import blocks

Tokens = NDArray[Any]


@dataclass(frozen=True)
class Mixed:
    """The ensemble on one shard: `logp` of every token, shape (N,), and the mean of each expert's
    weight, (E,).
    """

    logp: Array
    mean_posterior: Array

    @property
    def nats(self) -> float:
        """The nats of all tokens."""
        return -float(self.logp.sum())


@dataclass(frozen=True)
class ValidScores:
    """A valid split that a rule is fitted on."""

    logp: NDArray[np.float32]  # (E, S, T)
    log_prior: Array  # (E,)
    tokens: int  # scores that are real; the rest pads the last window
    ids: Tokens | None = None  # the tokens themselves, for a rule that reads them


class OnlineWeights(Protocol):
    """The weights of one text that is read token by token."""

    @property
    def log_weights(self) -> Array:
        """The log weight of each expert before the next token, shape (E,); they sum to 1 in
        probability.
        """

    def update(self, logp_E: ArrayLike, token: int) -> float:
        """Read one token and its log p(x_t | x_<t, D=j); return the mixture's log p(x_t | x_<t)."""


class AnyRoute(Protocol):
    """Weights by the text alone: a `btm.ensemble.router.Route`, which knows the tokenizer."""

    rows: list[int]  # the cluster of each expert, (E,)

    def __call__(self, ids_N: ArrayLike, window: int = 0) -> Iterator[Array]:
        """Yield log w_j,t of consecutive tokens, (E, some of N).

        Every `window` tokens are a context of their own (0: documents alone are).
        """

    def begin(self) -> OnlineWeights:
        """Begin a text that is read token by token."""


@dataclass(frozen=True)
class Rule(ABC):
    """The interface of a rule; it holds the settings of its ensemble.

    A rule says by class attributes what it needs, and implements `_mix` and `begin`. One with
    settings to fit names them in `fits`, and implements `fit` and `report`.
    """

    ensemble: EnsembleConfig

    needs_tokens: ClassVar[bool] = False  # it reads the tokens beside their scores
    needs_route: ClassVar[bool] = False  # it is handed an `AnyRoute`, made of a router
    needs_prior: ClassVar[bool] = True  # it begins from a prior, and keeps that one's top-k
    fits: ClassVar[tuple[str, ...]] = ()  # keys of `ensemble` that are fitted where they are null

    @property
    def is_fitted(self) -> bool:
        """Whether anything is fitted on valid splits, so that it may not be measured there."""
        fits_prior = self.needs_prior and self.ensemble.prior in priors.FITTED
        return fits_prior or any(getattr(self.ensemble, key) is None for key in self.fits)

    def fit_prior(self, valid_EST: NDArray[np.float32]) -> Array:
        """Fit the log prior, shape (E,), on valid windows; uniform for a rule that needs none."""
        if not self.needs_prior:
            return posterior.uniform_prior(len(valid_EST))
        return priors.fit_prior(valid_EST, self.ensemble)

    def fit(self, valid: Sequence[ValidScores]) -> "Rule":
        """Fit the settings that are null on valid shards; return the rule with them.

        One shard, the domain's own, or several: then every domain counts the same, whatever its
        length.
        """
        return self

    def report(self) -> dict[str, Any]:
        """Name the fitted settings and their values, as evals/<name>.json has them."""
        return {}

    def mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        ids_N: Tokens | None = None,
        route: AnyRoute | None = None,
    ) -> Mixed:
        """Mix the first `tokens` cached scores of a shard (the rest pads the last window).

        Experts that the prior leaves out are not read. `ids_N` are the shard's first tokens;
        `ValueError` where a rule needs them, or a route, and has none.
        """
        if self.needs_tokens and ids_N is None:
            raise ValueError(f"the rule {self.ensemble.rule} needs the tokens beside their scores")
        ids_N = np.empty(0, np.int64) if ids_N is None else ids_N[:tokens]
        kept = np.flatnonzero(np.isfinite(log_prior_E))
        # A moving prior keeps another top-k in each window.
        if len(kept) == len(logp_EST) or self.ensemble.prior == "updating":
            return self._mix(logp_EST, log_prior_E, tokens, ids_N, route)
        mixed = self._mix(logp_EST[kept], log_prior_E[kept], tokens, ids_N, route)
        mean_E = np.zeros(len(logp_EST))
        mean_E[kept] = mixed.mean_posterior
        return replace(mixed, mean_posterior=mean_E)

    @abstractmethod
    def _mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        ids_N: Tokens,
        route: AnyRoute | None,
    ) -> Mixed:
        """Mix as `mix` does, with all experts; `ids_N` is empty where `mix` was given none."""

    @abstractmethod
    def begin(self, log_prior_E: Array, route: AnyRoute | None = None) -> OnlineWeights:
        """Begin a text that is read token by token."""


class WindowRule(Rule):
    """A rule whose weights follow from the scores of a window and the weights it begins with.

    Each window is a sequence of its own, whose weights begin anew from the prior, as in the paper,
    whose blocks are the model's context; with `ensemble.carry` it begins with those that the window
    before it ended with.
    """

    @abstractmethod
    def _weigh(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, first_ES: Array | None
    ) -> tuple[Array, Array]:
        """Mix as `weigh` does."""

    @abstractmethod
    def _carry(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, begin_E: Array
    ) -> tuple[Array, Array]:
        """Continue as `carry` does, from `begin_E`."""

    @abstractmethod
    def step(self, log_weights_E: Array, logp_E: Array, log_prior_E: Array) -> Array:
        """Compute the log weights after a token from those before it; the prior sums to 1."""

    def first(self, log_prior_E: Array) -> Array:
        """Compute the log weights before the first token of a text, shape (E,)."""
        return normalise(log_prior_E)

    def weigh(
        self, logp_EST: ArrayLike, log_prior: ArrayLike, first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        """Mix windows that each begin from the prior, (E,) or (E, S), or from log `first_ES`.

        Returns the mixture's log-probabilities, shape (S, T), and the weights before each token,
        shape (E, S, T). `ValueError` for shapes that do not fit.
        """
        return self._weigh(*_checked(logp_EST, log_prior), first_ES)

    def carry(
        self, logp_EST: ArrayLike, log_prior: ArrayLike, begin_E: Array | None = None
    ) -> tuple[Array, Array]:
        """Find the log weights that consecutive windows of one text begin with.

        Returns them, shape (E, S), and those after the last window, shape (E,). The weights are not
        reset between windows: the ensemble has read the whole text, the experts their windows
        alone. `begin_E` are the log weights before the first window; None begins the text.
        """
        logp, log_prior_ES = _checked(logp_EST, log_prior)
        return self._carry(
            logp, log_prior_ES, self.first(log_prior_ES[:, 0]) if begin_E is None else begin_E
        )

    def _mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        ids_N: Tokens,
        route: AnyRoute | None,
    ) -> Mixed:
        experts, _, window = logp_EST.shape
        logp_N, weights_E = np.empty(tokens), np.zeros(experts)
        first_ES = end_E = None
        for start, block_EST, prior_ES in blocks(logp_EST, log_prior_E, self.ensemble):
            if self.ensemble.carry:
                first_ES, end_E = self.carry(block_EST, prior_ES, end_E)
            logp_ST, weights_EST = self.weigh(block_EST, prior_ES, first_ES)
            real = min(logp_ST.size, tokens - start * window)
            logp_N[start * window : start * window + real] = logp_ST.reshape(-1)[:real]
            weights_E += weights_EST.reshape(experts, -1)[:, :real].sum(axis=1)
        return Mixed(logp_N, weights_E / tokens)

    def begin(self, log_prior_E: Array, route: AnyRoute | None = None) -> OnlineWeights:
        """Begin a text that is read token by token, from the prior."""
        return OnlinePosterior(self, log_prior_E)


class OnlinePosterior:
    """The weights of one text under a `WindowRule`, one step a token.

    Kept in log space, so that with α = 0 no expert is ever lost.
    """

    def __init__(self, rule: WindowRule, log_prior_E: ArrayLike) -> None:
        """Begin from the prior."""
        prior_E = np.asarray(log_prior_E, np.float64)
        self._rule = rule
        self._log_prior_E = normalise(prior_E)
        self._log_weights_E = rule.first(prior_E)

    @property
    def log_weights(self) -> Array:
        """The log weight of each expert before the next token, shape (E,); they sum to 1 in
        probability.
        """
        return self._log_weights_E

    def update(self, logp_E: ArrayLike, token: int = -1) -> float:
        """Read the scores of one token; return the mixture's log p(x_t | x_<t).

        Which token it was makes no difference to these rules.
        """
        scores_E = np.asarray(logp_E, np.float64)
        mixed = float(np.logaddexp.reduce(self._log_weights_E + scores_E))
        self._log_weights_E = self._rule.step(self._log_weights_E, scores_E, self._log_prior_E)
        return mixed


def _checked(logp: ArrayLike, log_prior: ArrayLike) -> tuple[NDArray[Any], Array]:
    """Convert scores to float32 or float64, (E, S, T), and a prior to (E, S).

    `ValueError` if they do not fit.
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
    columns = prior if prior.ndim == 2 else prior[:, None]
    return scores, np.broadcast_to(columns, scores.shape[:2])
