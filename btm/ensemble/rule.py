"""The interface of an ensemble's rules, and the base class of rules that mix sequence by sequence.

A *rule* says how the weights of the experts follow the text: p(x_t | x_<t) = Σ_j w_j,t
p(x_t | x_<t, D=j), where w_j,t depends on the text before token t alone. The seven rules are in
`btm/ensemble/rules.py`.

Shapes: E experts, S windows or other sequences, T tokens of one, N tokens of a shard in order.
Scores are log p(x_t | x_<t, D=j) in nats: ``logp_EST``, or ``logp_E`` of one token. A log prior is
(E,), -inf for an expert that is left out. numpy alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior, priors
from btm.ensemble.commit import Commit, rows
from btm.ensemble.course import Course, OnlineWeights, follow
from btm.ensemble.posterior import Array, normalise
from btm.ensemble.text import Flags, Integers, Text, blocks, resets
from btm.system.json_files import Json


@dataclass(frozen=True)
class Mixed:
    """The ensemble on one shard: `logp` of every token, shape (N,), and the mean of each expert's
    weight, (E,).
    """

    logp: Array
    mean_posterior: Array
    experts_run: float | None = None  # for a token, on the average, where that depends on the text

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
    text: Text | None = None  # the tokens themselves, for a rule that reads them


class AnyRoute(Protocol):
    """Weights by the text alone: a `btm.ensemble.router.Route`, which knows the tokenizer."""

    rows: list[int]  # the cluster of each expert, (E,)

    def __call__(self, ids_N: ArrayLike, resets_N: Flags) -> Iterator[Array]:
        """Yield log w_j,t of consecutive tokens, (E, some of N); `resets_N` begin a context."""

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
    is_posterior: ClassVar[bool] = False  # its weights are the posterior of all tokens so far
    fits: ClassVar[tuple[str, ...]] = ()  # keys of `ensemble` that are fitted where they are null

    @property
    def commit(self) -> Commit | None:
        """When to go on with the best experts alone; None: never."""
        chosen = self.ensemble
        return Commit(chosen.commit, chosen.top_k, chosen.recall) if chosen.commit else None

    @property
    def is_fitted(self) -> bool:
        """Whether anything is fitted on valid splits, so that it may not be measured there."""
        fits_prior = self.needs_prior and self.ensemble.prior in priors.FITTED
        return fits_prior or any(getattr(self.ensemble, key) is None for key in self.fits)

    def fit_prior(self, valid_EST: NDArray[np.float32], tokens: int) -> Array:
        """Fit the log prior, shape (E,), on the first `tokens` scores of valid windows; uniform for
        a rule that needs none.
        """
        if not self.needs_prior:
            return posterior.uniform_prior(len(valid_EST))
        return priors.fit_prior(valid_EST, self.ensemble, tokens)

    def fit(self, valid: Sequence[ValidScores]) -> "Rule":
        """Fit the settings that are null on valid shards; return the rule with them.

        One shard, the domain's own, or several: then every domain counts the same, whatever its
        length.
        """
        return self

    def report(self) -> Json:
        """Name the fitted settings and their values, as evals/<name>.json has them."""
        return {}

    def mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        text: Text | None = None,
        route: AnyRoute | None = None,
    ) -> Mixed:
        """Mix the first `tokens` cached scores of a shard (the rest pads the last window).

        Experts that the prior leaves out are not read. `text` are those tokens; `ValueError` where
        a rule or ``ensemble.carry=document`` needs them, or a rule a route, and has none.
        """
        if self.needs_tokens and text is None:
            raise ValueError(f"the rule {self.ensemble.rule} needs the tokens beside their scores")
        kept = np.flatnonzero(np.isfinite(log_prior_E))
        if self.commit is not None and self.commit.recall:
            return self._mix_recalling(logp_EST, log_prior_E, kept, tokens, text)
        # A moving prior keeps another top-k in each window.
        if len(kept) == len(logp_EST) or self.ensemble.prior == "updating":
            return self._mix(logp_EST, log_prior_E, tokens, text, route)
        mixed = self._mix(logp_EST[kept], log_prior_E[kept], tokens, text, route)
        mean_E = np.zeros(len(logp_EST))
        mean_E[kept] = mixed.mean_posterior
        return replace(mixed, mean_posterior=mean_E)

    @abstractmethod
    def _mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        text: Text | None,
        route: AnyRoute | None,
    ) -> Mixed:
        """Mix as `mix` does, with all experts."""

    @abstractmethod
    def begin(self, log_prior_E: Array, route: AnyRoute | None = None) -> OnlineWeights:
        """Begin a text that is read token by token."""

    def course(self, log_prior_E: Array, route: AnyRoute | None = None) -> Course:
        """Begin a text that is read token by token, by some of the experts where it commits."""
        return Course(lambda prior: self.begin(prior, route), log_prior_E, self.commit)

    def _mix_recalling(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        kept: Integers,
        tokens: int,
        text: Text | None,
    ) -> Mixed:
        """Mix as `mix` does, one token after another: who reads one depends on those before."""
        experts, _, window = logp_EST.shape
        logp_EN = logp_EST.reshape(experts, -1)[kept, :tokens]
        starts = np.flatnonzero(resets(self.ensemble.carry, tokens, window, text))
        ids_N = np.zeros(tokens, np.int64) if text is None else text.ids
        logp_N, weights_E, reads = np.empty(tokens), np.zeros(experts), 0
        for start, stop in zip(starts, [*starts[1:], tokens], strict=True):
            course, some = self.course(log_prior_E[kept]), slice(start, stop)
            logp_N[some], log_weights_ET = follow(course, logp_EN[:, some], ids_N[some])
            weights_E[kept] += np.exp(log_weights_ET).sum(axis=1)
            reads += course.reads
        return Mixed(logp_N, weights_E / tokens, reads / tokens)


class SequenceRule(Rule):
    """A rule whose weights follow from the prior and the scores of a sequence.

    A sequence is a window, whose weights begin anew as in the paper, whose blocks are the model's
    context; or, with ``ensemble.carry=document``, a document, whatever windows it stands in.
    """

    @abstractmethod
    def _weigh(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, log_first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        """Mix as `weigh` does.

        `log_first_ES` are the weights before the first token, where the sequences go on from
        earlier ones; None: those of `first`.
        """

    @abstractmethod
    def step(self, log_weights_E: Array, logp_E: Array, log_prior_E: Array) -> Array:
        """Compute the log weights after a token from those before it; the prior sums to 1."""

    def first(self, log_prior_E: Array) -> Array:
        """Compute the log weights before the first token of a text, of the shape of the prior."""
        return normalise(log_prior_E)

    def weigh(self, logp_EST: ArrayLike, log_prior: ArrayLike) -> tuple[Array, Array]:
        """Mix sequences that each begin from the prior, (E,) or (E, S).

        Returns the mixture's log-probabilities, shape (S, T), and the weights before each token,
        shape (E, S, T). `ValueError` for shapes that do not fit. Nobody is recalled.
        """
        scores_EST, log_prior_ES = _checked(logp_EST, log_prior)
        if self.commit is None or self.commit.tokens >= scores_EST.shape[2]:
            return self._weigh(scores_EST, log_prior_ES)
        return self._weigh_committed(scores_EST, log_prior_ES, self.commit)

    def _weigh_committed(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, commit: Commit
    ) -> tuple[Array, Array]:
        """Mix sequences that go on with their best experts after `commit.tokens` tokens."""
        read_EST, left_EST = np.split(logp_EST, [commit.tokens], axis=2)
        read_ST, weights_EST = self._weigh(read_EST, log_prior_ES)
        log_weights_ES = self.first(log_prior_ES)
        for t in range(commit.tokens):  # as logarithms: the second best may be far behind
            log_weights_ES = self.step(log_weights_ES, read_EST[:, :, t], log_prior_ES)
        best_kS = commit.best(log_prior_ES + read_EST.sum(axis=2, dtype=np.float64))
        left_ST, weights_kST = self._weigh(
            rows(left_EST, best_kS),
            normalise(rows(log_prior_ES, best_kS)),
            normalise(rows(log_weights_ES, best_kS)),
        )
        alone_EST = np.zeros(left_EST.shape)
        np.put_along_axis(alone_EST, best_kS[..., None], weights_kST, axis=0)
        both = np.concatenate([weights_EST, alone_EST], axis=2)
        return np.concatenate([read_ST, left_ST], axis=1), both

    def _mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        text: Text | None,
        route: AnyRoute | None,
    ) -> Mixed:
        experts, _, window = logp_EST.shape
        logp_EN = logp_EST.reshape(experts, -1)[:, :tokens]
        resets_N = resets(self.ensemble.carry, tokens, window, text)
        log_prior_EQ = priors.of_sequences(logp_EN, resets_N, log_prior_E, self.ensemble)
        logp_N, weights_E = np.empty(tokens), np.zeros(experts)
        for block in blocks(logp_EN, resets_N):
            logp_ST, weights_EST = self.weigh(block.logp, log_prior_EQ[:, block.sequences])
            logp_N[block.at[block.real]] = logp_ST[block.real]
            weights_E += weights_EST[:, block.real].sum(axis=1)
        return Mixed(logp_N, weights_E / tokens)

    def begin(self, log_prior_E: Array, route: AnyRoute | None = None) -> OnlineWeights:
        """Begin a text that is read token by token, from the prior."""
        return OnlinePosterior(self, log_prior_E)


class OnlinePosterior:
    """The weights of one text under a `SequenceRule`, one step a token.

    Kept in log space, so that with α = 0 no expert is ever lost.
    """

    def __init__(self, rule: SequenceRule, log_prior_E: ArrayLike) -> None:
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

    def restrict(self, best: Integers) -> None:
        """Go on with the experts of these numbers alone, (k,): from now on E = k."""
        self._log_prior_E = normalise(self._log_prior_E[best])
        self._log_weights_E = normalise(self._log_weights_E[best])


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
