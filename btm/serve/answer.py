"""One request while it is answered: its tokens, the weights of its members, its text.

What members make of the tokens is noted as they read them (`heard`), and the weights follow as far
as it is known (`follow`): where a member is recalled, they wait until it has read what it missed.

Shapes: E members of the model that was asked for, k of them that are run, V tokens of the
vocabulary. Log-probabilities in nats.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from btm.ensemble.posterior import Array
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
    logp: dict[int, float]  # by each member that was run
    rests: dict[int, Rest | None]


class Answer:
    """A request that is read and written."""

    def __init__(
        self, number: int, request: Request, served: Served, listener: Listener, tokenizer: Any
    ) -> None:
        """Begin with a prompt that nothing has read."""
        self.number, self.request, self.served = number, request, served
        self.tokens = [served.start, *request.prompt]
        self.next: dict[int, torch.Tensor] = {}  # log p of the next token by each member, (V)
        self.rng = np.random.default_rng(request.sampling.seed)
        self.over = False
        self.held: set[str] = set()  # the sha256 of members that keep something of the text
        self.lost: list[str] = []  # members that it had to go on without
        self._rests: dict[int, Rest | None] = {}  # what is not known of `next`
        self._loose: dict[tuple[int, int], float] = {}  # {(member, place): slack of its score}
        # Nats that the score of each member so far may be above the one that was used, where it may
        # be anything below too; 0: it is exact.
        self._slack_E = np.zeros(len(served.members))
        self._late: _Late | None = None
        self._listener = listener
        self._tokenizer = tokenizer
        self._course = served.begin()
        self._known: dict[int, list[float]] = {}  # log p of the text's tokens by each member
        self._prompt: list[Token] = []
        self._is_told = False  # that the prompt was read
        self._written = 0

    @property
    def active(self) -> list[int]:
        """The members that are run, by number, in rising order (k)."""
        return [int(j) for j in self._course.running]

    @property
    def wanted(self) -> list[int]:
        """The members that are to read the text so far before it goes on."""
        return [int(j) for j in self._course.wanted]

    @property
    def readers(self) -> list[int]:
        """The members that read next: those that are wanted, or else those that run."""
        return self.wanted or self.active

    @property
    def scored(self) -> int:
        """The tokens that the weights have followed: nothing predicts the start."""
        return 1 + self._course.tokens

    @property
    def keys(self) -> list[str]:
        """The sha256 of each active member."""
        return self.keys_of(self.active)

    @property
    def models(self) -> list[Model]:
        """The members that read next."""
        return [self.served.members[j] for j in self.readers]

    @property
    def may_need(self) -> list[str]:
        """The sha256 of the members that it may still need."""
        if self._course.may_recall or self._course.has_committed:
            return self.keys_of(range(len(self.served.members)))
        return self.keys

    def keys_of(self, members: Iterable[int]) -> list[str]:
        """Return the sha256 of members."""
        return [self.served.members[j].sha256 for j in members]

    @property
    def to_read(self) -> int:
        """The tokens that its readers read before anything else is decided.

        All that are known; or where the ensemble is going to commit within them, those until then,
        unless whole distributions are asked for of all that may be run after it.
        """
        until = self._course.commits_at
        if until is None or (self.needs_whole and self._course.may_recall):
            return len(self.tokens)
        return min(until + 1, len(self.tokens))

    @property
    def needs_scores(self) -> bool:
        """Whether the scores of the prompt make a difference."""
        return bool(
            len(self.active) > 1
            or self.wanted
            or self.request.score_prompt
            or self._course.may_recall
        )

    @property
    def needs_whole(self) -> bool:
        """Whether the whole distributions at the prompt's tokens are asked for."""
        return self.request.score_prompt and self.request.top > 0

    @property
    def log_weights(self) -> Array:
        """The log weight of each active member before the next token, (k,)."""
        return self._course.log_weights

    def posterior(self) -> dict[str, float]:
        """Name the weight of each active member before the next token."""
        return self._by_name(np.exp(self.log_weights))

    @property
    def bound(self) -> float:
        """How far the mixture may be from the exact one, in total variation.

        Σ_j w_j r_j, where r_j is the mass of the tokens that member j does not list, and how far
        the weights themselves may be off.
        """
        rests_k = [self._rests.get(j) for j in self.active]
        masses_k = np.array([0.0 if rest is None else rest.mass for rest in rests_k])
        if not masses_k.any():
            return self._doubt
        return min(1.0, float(np.exp(self.log_weights) @ masses_k) + self._doubt)

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
        if doubtful.all() or not self.served.rule.is_posterior:
            return 1.0
        log_k = self.log_weights + slack_k
        raised = np.logaddexp.reduce(log_k[doubtful])
        return float(1 / (1 + np.exp(np.logaddexp.reduce(log_k[~doubtful]) - raised)))

    def expect(self, found: Mapping[int, Found]) -> None:
        """Take the distributions of the next token, and what was late of the last one's scores."""
        number, late = self.number, self._late
        self._late = None
        # Where all that ran are lost, the token is followed once others have read it.
        if late is not None and not self.wanted:
            logp_k = []
            for j in self.active:
                exact, rest = found[j].exact.get(number), late.rests.get(j)
                logp_k.append(late.logp[j] if exact is None else exact)
                if exact is None and rest is not None and late.token not in rest.listed:
                    self._loosen(j, rest.most - late.logp[j])
            self._update(np.array(logp_k), late.token)
        self.next |= {j: each.next[number] for j, each in found.items()}
        self._rests |= {j: each.rest.get(number) for j, each in found.items()}

    def heard(
        self, first: int, scores: Mapping[int, Array], slack: Mapping[int, Array] | None = None
    ) -> None:
        """Note log p that members gave consecutive tokens of the text, from place `first` on.

        Where `slack` is over 0 a score is not exact (`Found.slack`).
        """
        for j, logp_T in scores.items():
            known = self._known.setdefault(j, [])
            # What it has read before is known.
            known += logp_T[len(known) + 1 - first :].tolist()
        for j, slack_T in (slack or {}).items():
            self._loose |= {(j, first + int(t)): slack_T[t] for t in np.flatnonzero(slack_T)}

    def follow(self, top: Callable[[int], Sequence[tuple[int, float]]] | None = None) -> None:
        """Let the weights follow the text as far as the scores of those that are run are known.

        `top` lists the likeliest tokens at a place, where they are asked for.
        """
        while self._recall() and self.scored < len(self.tokens):
            place = self.scored
            if any(len(self._known.get(j, ())) < place for j in self.active):
                return
            logp_k = np.array([self._known[j][place - 1] for j in self.active])
            posterior = self.posterior() if self.request.posterior else None
            each = self._by_name(logp_k) if self.request.score_prompt else None
            likeliest = tuple(top(place)) if top else ()
            bound = self._doubt_at(place, logp_k)
            mixed = self._course.update(logp_k, self.tokens[place])
            if self.request.score_prompt and not self._is_told:
                token = self.tokens[place]
                told = Token(token, mixed, likeliest, posterior, each, bound=bound)
                self._prompt.append(told)

    def _doubt_at(self, place: int, logp_k: Array) -> float:
        """Bound how far the mixture's p of the text's token at a place may be off, before the
        weights follow it, and note where its scores are not exact.
        """
        bound, log_weights = self._doubt, self.log_weights
        for i, j in enumerate(self.active):
            if slack := self._loose.get((j, place)):
                bound = min(1.0, bound + float(np.exp(log_weights[i] + logp_k[i] + slack)))
                self._loosen(j, slack)
        return bound

    def _loosen(self, j: int, slack: float) -> None:
        """Note that a score of a member was not exact."""
        self._slack_E[j] += max(slack, 1e-9)  # it may be less in any case

    def passed(self, tokens: int) -> None:
        """Note that so many tokens were read whose scores make no difference."""
        for token in self.tokens[self.scored : tokens]:
            self._course.pass_over(token)

    @property
    def is_followed(self) -> bool:
        """Whether all members that are run have read the whole text."""
        return not self.wanted and self.scored == len(self.tokens)

    def let_go(self) -> list[str]:
        """Forget what members that are not run made of the text; return the sha256 of those that
        still keep something of it.
        """
        gone = sorted(self.held.difference(self.keys))
        self.held.difference_update(gone)
        self.next = {j: logp_V for j, logp_V in self.next.items() if j in self.active}
        if not self._course.may_recall:
            self._known = {}
        return gone

    def lose(self, sha256: str, why: str) -> None:
        """Go on without a member that does not answer any more; without any the request ends."""
        if self.over:
            return
        needed = {*self.active, *self.wanted}
        for j, model in enumerate(self.served.members):
            if model.sha256 != sha256:
                continue
            if j in needed:
                self.lost.append(model.name)
            self._known.pop(j, None)
            self.next.pop(j, None)
            self._rests.pop(j, None)
            if not self._course.lose(j):
                self.finish("error", error=why)

    def tell_prompt(self) -> None:
        """Tell that the prompt was read; a request for nothing more is over."""
        if self._is_told:
            return
        self._is_told = True
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
        own = dict(zip(self.active, logp_k.tolist(), strict=True))
        rests = {j: self._rests.get(j) for j in own}
        if any(rest is not None and token not in rest.listed for rest in rests.values()):
            # A member may tell the score after all, with the next distribution.
            self._late = _Late(token, own, rests)
        else:
            self._update(logp_k, token)
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

    def _update(self, logp_k: Array, token: int) -> None:
        """Let the weights follow a token that was written."""
        before = self.active
        self._course.update(logp_k, token)
        if self._course.may_recall:
            for j, own in zip(before, logp_k.tolist(), strict=True):
                self._known.setdefault(j, []).append(own)
        if self.active != before and self._slack_E[before].any():
            self._slack_E[:] = np.inf  # others might be the best

    def _recall(self) -> bool:
        """Let wanted members come back once they have read what they missed; tell if none is."""
        told = self._course.tokens
        if any(len(self._known.get(j, ())) < told for j in self.wanted):
            return False
        if self.wanted:
            self._course.recall([self._known[j][:told] for j in self.wanted])
        return True

    def _by_name(self, values_k: Array) -> dict[str, float]:
        members = [self.served.members[j].name for j in self.active]
        return {name: float(value) for name, value in zip(members, values_k, strict=True)}

    def _tell(self, event: Event) -> None:
        with suppress(Exception):  # who listens may be gone
            self._listener(event)
