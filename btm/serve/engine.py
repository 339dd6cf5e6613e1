"""The engine: many requests at once, in a thread of its own.

Continuous batching (Orca, OSDI 2022): requests join and leave between two tokens. A step of the
engine reads a piece of the prompts that are new, then gives every request that is being written its
next token: every member that is run for it has given the distribution, the rule has weighed them by
the tokens so far, their exact mixture is chosen from, and the weights follow the token. Each member
reads the new tokens of all its requests in one pass, and all members are asked at once
(btm/serve/members/member.py).

A member that an ensemble has let go of (``ensemble.commit``) is not run for that request, and keeps
nothing of it. Where it is recalled the request waits until it has read the text so far, piece by
piece as a prompt, while others go on; so the answer is that of one text alone. A member that is
lost, as when its machine died, is left out: the request goes on with the weights of the others,
normalised among them, or if none runs recalls those that it had let go of.
"""

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from btm.ensemble.members import load_member
from btm.ensemble.sampling import pick
from btm.errors import UserError
from btm.forest import Model, find_model
from btm.models import causal_lm
from btm.serve.answer import Answer
from btm.serve.catalog import Catalog, Served
from btm.serve.limits import Counts, FullError, Limits, TooLongError
from btm.serve.members.loading import Members
from btm.serve.members.member import RUNNING, LostError, Member, Piece
from btm.serve.request import Listener, Request
from btm.serve.shares import in_turn, may_wait, without

if TYPE_CHECKING:
    from btm.serve.prefill import Prefill

_log = logging.getLogger("btm.serve")

_PADDED = 8192  # tokens of prompts that are read at once, padding among them


@dataclass(frozen=True, eq=False)
class Borrower:
    """Someone who waits for the use of a member."""

    model: Model
    use: Callable[[Member], object]
    result: Future[Any] = field(default_factory=Future)

    def call(self, members: Members) -> None:
        """Use the member, and keep what came of it, unless nobody waits for it any more."""
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            self.result.set_result(self.use(members[self.model.sha256]))
        except Exception as error:
            self.result.set_exception(error)


class Engine:
    """Answers requests, each by a model of the catalog."""

    def __init__(
        self,
        catalog: Catalog,
        limits: Limits | None = None,
        load: Callable[[Model], Member] | None = None,
    ) -> None:
        """Begin with no model loaded; `load` loads one, in this process if it is not given."""
        self.catalog, self.limits = catalog, limits or Limits()
        self.members = Members(load or self._load)
        self._waiting: deque[Answer] = deque()
        self._taken: list[Answer] = []  # all that is read or written
        self._running: list[Answer] = []  # those that are written
        self._reading: Prefill | None = None
        self._cancelled: set[int] = set()
        self._borrowers: list[Borrower] = []
        self._wake = threading.Condition()
        self._number = self._read = self._written = 0
        self._closing = self._news = self._untidy = False
        self._thread = threading.Thread(target=self._work, name="btm-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more: whatever is unfinished is told that it was cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self.members.close()

    def context_of(self, served: Served) -> int:
        """Return the most tokens that a text of this model may have; 0: no limit."""
        return min((limit for limit in (self.limits.context, served.context) if limit), default=0)

    def submit(self, request: Request, listener: Listener) -> int:
        """Take on a request; return its number. `listener` is called by the engine's thread.

        Raises `UnknownModelError`, `TooLongError`, `FullError` if too many wait, and `UserError`
        for a token that is none.
        """
        served = self.catalog.find(request.model)
        size = self.catalog.vocabulary
        if strange := [token for token in request.prompt if not 0 <= token < size]:
            raise UserError(f"token {strange[0]} of the prompt: wanted 0 to {size - 1}")
        limit = self.context_of(served)
        # The start is a token too; the last one that is written, if any, is not read.
        total = len(request.prompt) + max(1, request.max_tokens)
        if limit and total > limit:
            raise TooLongError(
                f"{len(request.prompt)} tokens of prompt and {request.max_tokens} to be written: "
                f"{request.model} has a context of {limit}"
            )
        with self._wake:
            if self._closing:
                raise FullError("the server is stopping")
            if not may_wait(request.owner, self._waiting, self.limits.waiting):
                raise FullError(f"{len(self._waiting)} requests wait already: try again later")
            self._number += 1
            answer = Answer(self._number, request, served, listener, self.catalog.tokenizer)
            self._waiting.append(answer)
            self._wake.notify()
            return self._number

    def cancel(self, number: int) -> None:
        """Give up a request; one that is over is left alone."""
        with self._wake:
            self._cancelled.add(number)
            self._wake.notify()

    def borrow(self, model: Model, use: Callable[[Member], object]) -> Future[Any]:
        """Have the engine's thread call `use` with the member of a model, between two steps, once
        it is loaded; the result has what it returns, or raises.

        Nothing else is read or written meanwhile.
        """
        borrower = Borrower(model, use)
        with self._wake:
            if self._closing:
                raise FullError("the server is stopping")
            self._borrowers.append(borrower)
            self._wake.notify()
        return borrower.result

    def tidy(self) -> None:
        """Let go of the models that the catalog has no more, once nothing is written with them."""
        with self._wake:
            self._untidy = self._news = True
            self._wake.notify()

    def counts(self) -> Counts:
        """Count what runs and waits, and the tokens so far."""
        with self._wake:
            return Counts(len(self._taken), len(self._waiting), self._read, self._written)

    def _load(self, model: Model) -> Member:
        from btm.serve.members.local import LocalMember

        if model.kind == "remote":
            return self.catalog.remotes.load(model)
        config = self.catalog.config
        device = causal_lm.pick_device(config.trainer.device)
        loaded = load_member(self.catalog.forest, model, device, config.load)
        if find_model(self.catalog.forest, model.name).sha256 != model.sha256:
            raise UserError(f"{model.name}: it was replaced while it was loaded: ask again")
        return LocalMember(loaded)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._closing or self._news or self._busy() or self._cancelled):
                    self._wake.wait()
                self._news = False
                if self._closing:
                    break
            try:
                self.step()
            except Exception as error:
                _log.exception("a step of the engine failed: what it was at is ended")
                self._fail(error)
        for answer in self._all():
            answer.finish("cancelled")
        for borrower in self._borrowers:
            borrower.result.cancel()

    def _busy(self) -> bool:
        if self._reading or any(answer.is_followed for answer in self._running):
            return True
        return any(self._is_ready(answer) for answer in [*self._running, *self._waiting]) or any(
            self._can_lend(borrower) for borrower in self._borrowers
        )

    def step(self) -> None:
        """Read a piece of what is new, and write a token of whatever is being written."""
        import torch

        with torch.inference_mode():
            self._step()
        self._taken = [answer for answer in self._taken if not answer.over]

    def _step(self) -> None:
        self._leave_off()
        if self._untidy:  # here, since this thread alone takes up members
            self._untidy = False
            served = {member.sha256 for each in self.catalog for member in each.members}
            with self._wake:
                self.members.keep(served.union(*(answer.may_need for answer in self._all())))
        self._lend()
        if self._reading is None:
            self._admit()
        if self._reading is not None and self._read_on(self._reading):
            self._join(self._reading)
        self._write()

    def _read_on(self, reading: "Prefill") -> bool:
        """Read the next piece of prompts; an error there ends these requests alone."""
        try:
            ends, lost = reading.step()
            self._lose(lost)
            return ends or not reading.answers
        except Exception as error:
            _log.exception("prompts could not be read")
            for answer in reading.answers:
                answer.finish("error", error=_said(error))
            reading.drop([answer.number for answer in reading.answers])
            self._reading = None
            return False

    def _leave_off(self) -> None:
        """Give up what was cancelled."""
        with self._wake:
            gone, self._cancelled = self._cancelled, set()
        if not gone:
            return
        for answer in self._all():
            if answer.number in gone:
                answer.finish("cancelled")
        with self._wake:
            self._waiting = deque(a for a in self._waiting if not a.over)
        self._forget([a.number for a in self._running if a.over])
        if self._reading is not None:
            self._reading.drop([a.number for a in self._reading.answers if a.over])
            if not self._reading.answers:
                self._reading = None

    def _admit(self) -> None:
        """Begin to read texts for members that are recalled, and requests that wait, in turn, as
        many as there are places for.
        """
        from btm.serve.prefill import Prefill

        places = self.limits.running - len(self._running)
        chosen: list[Answer] = []
        width = 0
        with self._wake:
            recalling = [answer for answer in self._running if answer.wanted]
            for answer in [*recalling, *in_turn(self._waiting, self._running)]:
                width = max(width, answer.to_read)
                is_new = answer not in recalling
                if (is_new and not places) or (chosen and width * (len(chosen) + 1) > _PADDED):
                    break
                # A member that turns out to be lost is not wanted any more.
                if self._is_ready(answer) and (is_new or answer.wanted):
                    chosen.append(answer)
                    places -= is_new
            self._waiting = deque(a for a in without(self._waiting, chosen) if not a.over)
        self._forget([a.number for a in self._running if a.over])
        if chosen:
            self._taken += [a for a in chosen if a not in recalling]
            self._reading = Prefill(chosen, self.members)

    def _is_ready(self, answer: Answer) -> bool:
        """Whether the members of a request are loaded; an error of loading ends the request."""
        try:
            return self.members.ready(answer.models, self._tell_news)
        except LostError as error:
            answer.lose(error.sha256, str(error))
            if not answer.over:
                return self._is_ready(answer)
            if answer in self._waiting:
                self._waiting.remove(answer)
            return False
        except Exception as error:
            _log.error("a model did not load: %s", error)
            answer.finish("error", error=_said(error))
            if answer in self._waiting:
                self._waiting.remove(answer)
            return False

    def _lend(self) -> None:
        """Let those use their member whose member is loaded."""
        with self._wake:
            ready = [borrower for borrower in self._borrowers if self._can_lend(borrower)]
            self._borrowers = [each for each in self._borrowers if each not in ready]
        for borrower in ready:
            borrower.call(self.members)

    def _can_lend(self, borrower: Borrower) -> bool:
        try:
            return self.members.ready([borrower.model], self._tell_news)
        except Exception:  # of loading: the borrower is told when it is called
            return True

    def _tell_news(self) -> None:
        with self._wake:
            self._news = True
            self._wake.notify()

    def _join(self, read: "Prefill") -> None:
        """Let requests that were read be written; one that commits within its prompt is read again
        by the best members alone.
        """
        self._read += read.read
        for answer in read.answers:
            answer.follow()  # as far as it can: recalled members may have missed a prompt's end
        again = [a for a in read.answers if not (a.is_followed or a.wanted)]
        for answer in again:
            answer.next = {}
            answer.held.clear()
        for answer in read.answers:
            if answer.is_followed:
                self._let_go(answer)
                answer.tell_prompt()
        read.drop([a.number for a in read.answers if a in again or a.over])
        for sha, group in read.groups.items():
            self.members[sha].join(group)
        self._running += [a for a in read.answers if a not in self._running and not a.over]
        self._forget([a.number for a in self._running if a.over])
        self._reading = None
        with self._wake:
            self._waiting.extendleft(reversed(again))
            self._taken = [a for a in self._taken if a not in again]

    def _let_go(self, answer: Answer) -> None:
        """Have the members forget a request that are not run for it any more."""
        loaded = self.members.loaded()
        for sha in answer.let_go():
            if sha in loaded:
                self.members[sha].drop([answer.number])

    def _write(self) -> None:
        """Choose the next token of all that is being written, and read it."""
        being_read = self._reading.answers if self._reading else []
        written = [a for a in self._running if a.is_followed and a not in being_read]
        for group in self._alike(written):
            self._choose(group)
        self._forget([a.number for a in self._running if a.over])
        tokens: dict[str, dict[int, list[int]]] = defaultdict(dict)
        weight: dict[str, float] = defaultdict(float)
        for answer in written:
            if not answer.over:
                self._let_go(answer)
                for sha, share in zip(answer.keys, np.exp(answer.log_weights), strict=True):
                    tokens[sha][answer.number] = answer.tokens[-1:]
                    weight[sha] += share
        pieces = {sha: (RUNNING, Piece(new, weight=weight[sha])) for sha, new in tokens.items()}
        found, lost = self.members.read(pieces)
        self._lose(lost)
        for answer in written:
            if not answer.over:
                answer.next = {}
                keys = zip(answer.active, answer.keys, strict=True)
                answer.expect({j: found[sha] for j, sha in keys})

    def _lose(self, lost: Mapping[str, LostError]) -> None:
        """Go on without members that do not answer any more."""
        for sha, error in lost.items():
            _log.warning("a member is lost: %s", error)
            for answer in self._taken:
                answer.lose(sha, str(error))
        if self._reading is not None:
            self._reading.lose(lost)
        if lost:
            self._forget([a.number for a in self._running if a.over])

    def _alike(self, answers: Iterable[Answer]) -> Iterator[list[Answer]]:
        """Yield requests, those that the same members are run for together."""
        groups: dict[tuple[str, ...], list[Answer]] = {}
        for answer in answers:
            groups.setdefault(tuple(answer.keys), []).append(answer)
        yield from groups.values()

    def _choose(self, group: list[Answer]) -> None:
        """Mix the distributions of each request, and choose a token from the mixture."""
        from btm.serve.mixing import likeliest, mix

        weights = [a.log_weights for a in group]
        next_BkV = [[a.next[j] for j in a.active] for a in group]
        logp_BV = mix(next_BkV, weights, group[0].served.vocabulary)
        best = logp_BV.argmax(1).tolist()
        for i, answer in enumerate(group):
            sampling = answer.request.sampling
            token = best[i]
            if sampling.temperature > 0 or sampling.bias:
                token = pick(logp_BV[i].cpu().numpy(), sampling, answer.rng)
            logp_k = np.array([float(logp_V[token]) for logp_V in next_BkV[i]])
            top = likeliest(logp_BV[i], answer.request.top)
            self._written += 1
            answer.write(token, float(logp_BV[i, token]), logp_k, top)

    def _forget(self, numbers: list[int]) -> None:
        if not numbers:
            return
        self._running = [a for a in self._running if a.number not in numbers]
        for sha in self.members.loaded():
            self.members[sha].drop(numbers)

    def _all(self) -> list[Answer]:
        return [*self._taken, *self._waiting]

    def _fail(self, error: Exception) -> None:
        """End what was read or written when something went wrong, and begin with empty caches."""
        for answer in self._taken:
            answer.finish("error", error=_said(error))
        self._taken, self._running, self._reading = [], [], None
        for sha in self.members.loaded():
            self.members[sha].clear()


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | MemoryError) else repr(error)
