"""The course of one text through an ensemble: which experts read each token, and with what weights.

Without ``ensemble.commit`` all experts read all tokens. With it all read the first N, then the k
best go on alone (btm/ensemble/commit.py). With ``ensemble.recall`` the others may come back:

- An expert that is left out reads nothing, so what it makes of new tokens is not known. It is
  expected to go on at m_j, the mean log p of the tokens of this text that it has read.
- The posterior odds of an expert j that is left out against the ensemble as it runs, R, are taken
  over the last N tokens, as a commitment takes them over the first N:
  π_j exp(N m_j) / (Σ_r∈R π_r · Π_t p_R(x_t | x_<t)). Above 1, j is expected to do better alone than
  all that run do together. Old tokens do not count, so a text may change.
- Then all that are left out are recalled, since the text has become another one, and what they were
  worth before does not tell which of them it wants: they replay the text so far. Their true scores
  take the place of the expected ones, and the k of greatest posterior over the last N tokens go on,
  with the weights that the rule gives them after the whole text: the ensemble commits anew.
  Expectations decide when that is, and never enter a weight.
- A recall that proves wrong lowers m_j to what it was worth. After t tokens it costs (E - k)·t
  passes, and the next comes no sooner than t tokens later: of T tokens an expert replays less than
  2T in all, so a token costs less than k + 2 (E - k) passes on the average, whatever the text, and
  k where it stays what it was.

Also where all that run are lost, as with their machines, the others are recalled.

Shapes: E experts, k of them that are run, m that are wanted, T tokens. Log-probabilities in nats.
numpy alone.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from btm.ensemble.commit import Commit
from btm.ensemble.posterior import Array
from btm.ensemble.text import Integers

_NOBODY: Integers = np.empty(0, np.int64)


class OnlineWeights(Protocol):
    """The weights of one text that is read token by token."""

    @property
    def log_weights(self) -> Array:
        """The log weight of each expert before the next token, shape (E,); they sum to 1 in
        probability.
        """

    def update(self, logp_E: ArrayLike, token: int) -> float:
        """Read one token and its log p(x_t | x_<t, D=j); return the mixture's log p(x_t | x_<t)."""

    def restrict(self, best: Integers) -> None:
        """Go on with the experts of these numbers alone, (k,): from now on E = k."""


class Course:
    """A text that is read token by token, by some of the experts at a time.

    Before the next token is read, the experts that are `wanted` replay those so far (`recall`).
    """

    def __init__(
        self,
        begin: Callable[[Array], OnlineWeights],
        log_prior_E: Array,
        commit: Commit | None = None,
    ) -> None:
        """Begin a text with all experts; `begin` begins the rule's weights from a log prior."""
        self.running: Integers = np.arange(len(log_prior_E))  # (k,)
        self.wanted: Integers = _NOBODY  # (m,)
        self.tokens = 0  # that were read
        self.reads = 0  # passes of one expert over one token, replays included
        self.recalls = 0  # replays of an expert
        self._begin = begin
        self._commit = commit if commit is not None and commit.experts < len(log_prior_E) else None
        self._log_prior_E = np.asarray(log_prior_E, np.float64)
        self._online = begin(self._log_prior_E)
        self._alive_E = np.ones(len(log_prior_E), bool)
        self._mean_E = np.full(len(log_prior_E), np.nan)  # of experts that are left out
        self._next_recall = 0  # the tokens before which none is recalled
        # What was read, where it may be asked for again: tokens, scores (nan: not read), mixture.
        self._ids: list[int] = []
        self._logp_TE: list[Array] = []
        self._mixed: list[float] = []

    @property
    def log_weights(self) -> Array:
        """The log weight of each running expert before the next token, (k,)."""
        return self._online.log_weights

    @property
    def commits_at(self) -> int | None:
        """The tokens after which the best go on alone; None: no more."""
        if self._commit is None or self.has_committed or len(self.running) <= self._commit.experts:
            return None
        return self._commit.tokens

    @property
    def has_committed(self) -> bool:
        """Whether experts are left out that may come back."""
        return not np.isnan(self._mean_E).all()

    @property
    def may_recall(self) -> bool:
        """Whether the posterior may ask for experts that are left out, now or later."""
        commit = self._commit
        return commit is not None and commit.recall and self._alive_E.sum() > commit.experts

    def update(self, logp_k: ArrayLike, token: int) -> float:
        """Read a token and the log p that the running experts gave it; return the mixture's.

        `ValueError` while experts are wanted.
        """
        if len(self.wanted):
            raise ValueError(f"the experts {self.wanted} are to replay the text first")
        mixed = self._online.update(logp_k, token)
        self.reads += len(self.running)
        self._note(token, logp_k, mixed)
        if self.tokens == self.commits_at:
            self._settle(self.running, self.tokens)
        elif self.has_committed and self.may_recall and self.tokens >= self._next_recall:
            self._ask()
        return mixed

    def pass_over(self, token: int) -> None:
        """Read a token whose scores make no difference: one expert runs, and none is recalled."""
        self.reads += 1
        self._note(token, [np.nan], np.nan)

    def recall(self, logp_mT: ArrayLike) -> None:
        """Replay: take the scores of the wanted experts on all tokens so far, and go on with the
        best.
        """
        logp_TE = np.array(self._logp_TE)
        logp_TE[:, self.wanted] = np.asarray(logp_mT, np.float64).T
        self._logp_TE = list(logp_TE)
        self.reads += len(self.wanted) * self.tokens
        self.recalls += len(self.wanted)
        read = np.union1d(self.running, self.wanted)
        self._online = self._begin(self._log_prior_E[read])
        for token, logp_E in zip(self._ids, logp_TE, strict=True):
            self._online.update(logp_E[read], token)
        assert self._commit is not None
        self._settle(read, self._commit.tokens)
        self.wanted = _NOBODY

    def lose(self, expert: int) -> bool:
        """Go on without an expert for ever; tell whether any is left."""
        self._alive_E[expert] = False
        self.wanted = self.wanted[self.wanted != expert]
        places = np.flatnonzero(self.running != expert)
        if len(places) < len(self.running):
            self.running = self.running[places]
            if len(places):
                self._online.restrict(places)
        if not len(self.running) and not len(self.wanted):
            self.wanted = np.flatnonzero(self._alive_E)
        return bool(len(self.running) or len(self.wanted))

    def _note(self, token: int, logp_k: ArrayLike, mixed: float) -> None:
        self.tokens += 1
        if self._commit is None:
            return
        logp_E = np.full(len(self._log_prior_E), np.nan)
        logp_E[self.running] = logp_k
        self._ids.append(token)
        self._logp_TE.append(logp_E)
        self._mixed.append(mixed)

    def _settle(self, read: Integers, last: int) -> None:
        """Go on with the best of those that have read everything, by the `last` tokens."""
        assert self._commit is not None
        logp_TE = np.array(self._logp_TE)[:, read]
        recent_E = logp_TE[-last:].sum(axis=0)
        best = self._commit.best(self._log_prior_E[read] + recent_E)
        self._online.restrict(best)
        self.running = read[best]
        self._mean_E[read] = logp_TE.mean(axis=0)
        self._mean_E[self.running] = np.nan
        self._next_recall = self.tokens + max(self.tokens, self._commit.tokens)

    def _ask(self) -> None:
        """Want those that are left out if one is expected to do better than those that run do."""
        assert self._commit is not None
        last = self._commit.tokens
        now = np.logaddexp.reduce(self._log_prior_E[self.running]) + sum(self._mixed[-last:])
        left_E = self._alive_E & ~np.isnan(self._mean_E)
        expected_E = self._log_prior_E + last * self._mean_E
        if (expected_E[left_E] > now).any():
            self.wanted = np.flatnonzero(left_E)


def follow(course: Course, logp_ET: ArrayLike, ids_T: Integers) -> tuple[Array, Array]:
    """Read a text whose scores by all experts are known; only those that are run are looked at.

    Returns the mixture's log p of each token, (T,), and the log weights before it, (E, T), -inf for
    an expert that is not run.
    """
    scores_ET = np.asarray(logp_ET, np.float64)
    mixed_T, log_weights_ET = np.empty(len(ids_T)), np.full(scores_ET.shape, -np.inf)
    for t, token in enumerate(ids_T):
        if len(course.wanted):
            course.recall(scores_ET[course.wanted, :t])
        log_weights_ET[course.running, t] = course.log_weights
        mixed_T[t] = course.update(scores_ET[course.running, t], int(token))
    return mixed_T, log_weights_ET
