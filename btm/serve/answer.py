"""One request while it is answered: its tokens, the weights of its members, its text.

Shapes: E members of the model that was asked for, k of them that are run, V tokens of the
vocabulary. Log-probabilities in nats.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from btm.ensemble.posterior import Array
from btm.ensemble.text import Integers
from btm.forest import Model
from btm.serve.catalog import Served
from btm.serve.members.member import Found, Rest
from btm.serve.request import Done, Event, Listener, Prompt, Request, Token
from btm.serve.text import StoppedText

if TYPE_CHECKING:
    import torch


class _Late(NamedTuple):
    """A token that was written and that a member did not list: the weights follow it later."""

    token: int
    logp_k: Array
    rests_k: list[Rest | None]


class Answer:
    """A request that is read and written."""

    def __init__(
        self, number: int, request: Request, served: Served, listener: Listener, tokenizer: Any
    ) -> None:
        """Begin with a prompt that nothing has read."""
        self.number, self.request, self.served = number, request, served
        self.tokens = [served.start, *request.prompt]
        self.active = list(range(len(served.members)))  # k
        self.next: list[torch.Tensor] = []  # log p of the next token by each active member, k × (V)
        self.scored = 1  # tokens that the weights have followed: nothing predicts the start
        self.rng = np.random.default_rng(request.sampling.seed)
        self.over = False
        self.lost: list[str] = []  # members that it had to go on without
        self._rests: list[Rest | None] = []  # what is not known of `next`, k
        # Nats that the score of each member so far may be above the one that was used, where it may
        # be anything below too; 0: it is exact.
        self._slack_E = np.zeros(len(served.members))
        self._late: _Late | None = None
        self._listener = listener
        self._tokenizer = tokenizer
        self._online = served.begin()
        self._log_posterior_E = np.array(served.log_prior, np.float64)
        self._prompt: list[Token] = []
        self._written = 0

    @property
    def keys(self) -> list[str]:
        """The sha256 of each active member."""
        return [model.sha256 for model in self.models]

    @property
    def models(self) -> list[Model]:
        """The active members."""
        return [self.served.members[j] for j in self.active]

    @property
    def to_read(self) -> int:
        """The tokens that all active members read before anything else is decided.

        All that are known; or where the ensemble is going to commit within them, those until then.
        """
        until = self._commits_at
        return len(self.tokens) if until is None else min(until, len(self.tokens))

    @property
    def needs_scores(self) -> bool:
        """Whether the scores of the prompt make a difference."""
        return len(self.active) > 1 or self.request.score_prompt

    @property
    def needs_whole(self) -> bool:
        """Whether the whole distributions at the prompt's tokens are asked for."""
        return self.request.score_prompt and self.request.top > 0

    @property
    def log_weights(self) -> Array:
        """The log weight of each active member before the next token, (k,)."""
        return self._online.log_weights

    def posterior(self) -> dict[str, float]:
        """Name the weight of each active member before the next token."""
        return self._by_name(np.exp(self.log_weights))

    @property
    def bound(self) -> float:
        """How far the mixture may be from the exact one, in total variation.

        Σ_j w_j r_j, where r_j is the mass of the tokens that member j does not list, and how far
        the weights themselves may be off.
        """
        masses_k = [0.0 if rest is None else rest.mass for rest in self._rests]
        if not any(masses_k):
            return self._doubt
        return min(1.0, float(np.exp(self.log_weights) @ np.array(masses_k)) + self._doubt)

    @property
    def _doubt(self) -> float:
        """How far the weights may be off, in total variation.

        Of members whose scores are not exact the true weights are anything from 0 to what the most
        that their scores can be gives them together, and that is by how much others can be off too.
        Other rules than Bayes' forget, so nothing is known of theirs.
        """
        slack_k = self._slack_E[self.active]
        doubtful = slack_k > 0
        if len(self.active) == 1 or not doubtful.any():
            return 0.0
        if doubtful.all() or self.served.rule.ensemble.rule != "bayes":
            return 1.0
        log_k = self.log_weights + slack_k
        raised = np.logaddexp.reduce(log_k[doubtful])
        return float(1 / (1 + np.exp(np.logaddexp.reduce(log_k[~doubtful]) - raised)))

    def expect(self, found_k: Sequence[Found]) -> None:
        """Take the distributions of the next token, and what was late of the last one's scores."""
        number = self.number
        if self._late is not None:
            token, logp_k, rests_k = self._late
            self._late = None
            exact_k = [found.exact.get(number) for found in found_k]
            logp_k = np.array([x if e is None else e for x, e in zip(logp_k, exact_k, strict=True)])
            for place, rest in enumerate(rests_k):
                if rest is not None and token not in rest.listed and exact_k[place] is None:
                    self._doubt_score(place, rest.most - float(logp_k[place]))
            self._follow(token, logp_k)
        self.next = [found.next[number] for found in found_k]
        self._rests = [found.rest.get(number) for found in found_k]

    def saw(
        self,
        token: int,
        logp_k: Array,
        top: Sequence[tuple[int, float]] = (),
        slack_k: Sequence[float] = (),
    ) -> None:
        """Follow a token of the prompt that the active members gave log p `logp_k`.

        Where `slack_k` is over 0 a score is not exact (`Found.slack`).
        """
        posterior = self.posterior() if self.request.posterior else None
        bound = self._doubt
        for place, slack in enumerate(slack_k):
            if slack:
                most = self.log_weights[place] + logp_k[place] + slack
                bound = min(1.0, bound + float(np.exp(most)))
                self._doubt_score(place, slack)
        mixed = self._follow(token, logp_k)
        if self.request.score_prompt:
            each = self._by_name(logp_k)
            self._prompt.append(Token(token, mixed, tuple(top), posterior, each, bound=bound))

    def passed(self, tokens: int) -> None:
        """Note that so many tokens were read whose scores make no difference."""
        self.scored = max(self.scored, tokens)

    def commit(self) -> list[str]:
        """Go on with the best members alone once it is time; return the sha256 of the others."""
        rule = self.served.rule.commit
        if rule is None or self.scored != self._commits_at:
            return []
        before = set(self.keys)
        if self._slack_E[self.active].any():
            self._slack_E[:] = np.inf  # others might be the best
        self._restrict(rule.best(self._log_posterior_E[self.active]))
        return sorted(before - set(self.keys))

    def lose(self, sha256: str, why: str) -> None:
        """Go on without a member that does not answer any more; the last one ends the request."""
        left = [i for i, key in enumerate(self.keys) if key != sha256]
        if self.over or len(left) == len(self.active):
            return
        self.lost += [model.name for model in self.models if model.sha256 == sha256]
        if left:
            self._restrict(np.array(left))
        else:
            self.finish("error", error=why)

    def tell_prompt(self) -> None:
        """Tell that the prompt was read; a request for nothing more is over."""
        self._tell(Prompt(tuple(self._prompt)))
        self._prompt = []
        if self.request.max_tokens == 0:
            self.finish("length")

    def write(
        self, token: int, logp: float, logp_k: Array, top: Sequence[tuple[int, float]] = ()
    ) -> None:
        """Take a token that was chosen: tell it, or end the text with it."""
        posterior, bound = self.posterior() if self.request.posterior else None, self.bound
        if token in self.served.ends and not self.request.ignore_ends:
            self._tell(Token(token, logp, tuple(top), posterior, bound=bound))
            self.finish("stop", token)
            return
        self.tokens.append(token)
        if any(rest is not None and token not in rest.listed for rest in self._rests):
            # A member may tell the score after all, with the next distribution.
            self._late = _Late(token, logp_k, self._rests)
        else:
            self._follow(token, logp_k)
        self._written += 1
        text = self._text.add(token)
        self._tell(Token(token, logp, tuple(top), posterior, text=text, bound=bound))
        if self._text.stopped_by is not None:
            self.finish("stop", self._text.stopped_by)
        elif self._written >= self.request.max_tokens:
            self.finish("length")

    def finish(self, reason: str, stopped_by: int | str | None = None, error: str = "") -> None:
        """Tell that nothing follows; only the first time."""
        if self.over:
            return
        self.over = True
        rest = ""
        if self._written and self._text.stopped_by is None:
            rest = self._text.rest()
            if self._text.stopped_by is not None and reason == "length":
                reason, stopped_by = "stop", self._text.stopped_by  # the rest ended it
        self._tell(Done(reason, rest, stopped_by, error, tuple(self.lost)))

    @cached_property
    def _text(self) -> StoppedText:
        """The text so far; made by the engine's thread, which alone may use its tokenizer."""
        return StoppedText(self._tokenizer, self.request.prompt, self.request.stop)

    @property
    def _commits_at(self) -> int | None:
        """The tokens, the start among them, after which the best go on alone; None: no more."""
        rule = self.served.rule.commit
        if rule is None or len(self.active) <= rule.experts:
            return None
        return rule.tokens + 1

    def _follow(self, token: int, logp_k: Array) -> float:
        self.scored += 1
        self._log_posterior_E[self.active] += logp_k
        return self._online.update(logp_k, token)

    def _restrict(self, places: Integers) -> None:
        """Go on with the active members at these places alone."""
        self._online.restrict(places)
        self.active = [self.active[i] for i in places]
        if self.next:
            self.next = [self.next[i] for i in places]
            self._rests = [self._rests[i] for i in places]
        if (late := self._late) is not None:
            kept = [late.rests_k[i] for i in places]
            self._late = _Late(late.token, late.logp_k[places], kept)

    def _doubt_score(self, place: int, slack: float) -> None:
        """Note that the score of the active member at a place was not exact."""
        self._slack_E[self.active[place]] += max(slack, 1e-9)  # it may be less in any case

    def _by_name(self, values_k: Array) -> dict[str, float]:
        members = [self.served.members[j].name for j in self.active]
        return {name: float(value) for name, value in zip(members, values_k, strict=True)}

    def _tell(self, event: Event) -> None:
        with suppress(Exception):  # who listens may be gone
            self._listener(event)
