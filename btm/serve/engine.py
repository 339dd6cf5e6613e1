"""The engine: many requests at once, in a thread of its own."""

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from btm.data.decoding import continuation
from btm.ensemble import generate as online
from btm.ensemble.sampling import pick
from btm.errors import UserError
from btm.serve.catalog import Catalog, Served
from btm.serve.request import Done, Listener, Prompt, Request, Token


class TooLongError(UserError):
    """Prompt and answer have more tokens than a model has positions, or than the server allows."""


class FullError(UserError):
    """As many requests wait as may."""


@dataclass(frozen=True)
class Limits:
    """What the engine takes on at once."""

    running: int = 16  # requests that are read and written at once
    waiting: int = 64  # requests that wait for a place
    context: int = 0  # tokens of a prompt and its answer; 0: what the members have positions for


@dataclass(frozen=True)
class Counts:
    """What the engine has done, and does."""

    running: int
    waiting: int
    read: int  # tokens of prompts, since the start
    written: int


class Engine:
    """Answers requests, each by a model of the catalog."""

    def __init__(self, catalog: Catalog, limits: Limits = Limits()) -> None:
        self.catalog, self.limits = catalog, limits
        self._waiting: deque[tuple[int, Request, Served, Listener]] = deque()
        self._cancelled: set[int] = set()
        self._wake = threading.Condition()
        self._number = 0
        self._closing = False
        self._running = self._read = self._written = 0
        self._thread = threading.Thread(target=self._work, name="btm-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; what runs is told that it is over."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def context_of(self, served: Served) -> int:
        """Return the most tokens that a text of this model may have; 0: no limit."""
        return self.limits.context

    def submit(self, request: Request, listener: Listener) -> int:
        """Take on a request; return its number. `listener` is called by the engine's thread.

        Raises `UnknownModelError`, `TooLongError`, or `FullError` if too many wait.
        """
        served = self.catalog.find(request.model)
        with self._wake:
            if len(self._waiting) >= self.limits.waiting:
                raise FullError("the server is full: try again in a moment")
            self._number += 1
            self._waiting.append((self._number, request, served, listener))
            self._wake.notify()
            return self._number

    def cancel(self, number: int) -> None:
        """Give up a request; one that is over is left alone."""
        with self._wake:
            self._cancelled.add(number)

    def counts(self) -> Counts:
        """Count what runs and waits, and the tokens so far."""
        with self._wake:
            return Counts(self._running, len(self._waiting), self._read, self._written)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return
                number, request, served, listener = self._waiting.popleft()
                self._running = 1
            try:
                self._answer(number, request, served, listener)
            except Exception as error:
                listener(Done("error", error=str(error)))
            finally:
                self._running = 0

    def _answer(self, number: int, request: Request, served: Served, listener: Listener) -> None:
        prior = {
            model.name: float(p)
            for model, p in zip(served.members, np.exp(served.log_prior), strict=True)
        }
        mixed = online.Ensemble.load(
            self.catalog.forest, prior, ensemble=served.rule.ensemble, route=served.route
        )
        rng = np.random.default_rng(request.sampling.seed)
        tokens = []
        for token in request.prompt:
            weights, logp_V = mixed.weights, mixed.next_logp()
            order = np.argsort(-logp_V)[: request.top]
            before = mixed._next_EV[:, token]
            mixed.read([token])
            tokens.append(
                Token(
                    token,
                    float(logp_V[token]),
                    tuple((int(t), float(logp_V[t])) for t in order),
                    weights if request.posterior else None,
                    dict(zip(mixed.names, map(float, before), strict=True)),
                )
            )
        listener(Prompt(tuple(tokens) if request.score_prompt else ()))
        ids: list[int] = []
        told = ""
        for _ in range(request.max_tokens):
            if number in self._cancelled:
                return listener(Done("cancelled"))
            weights, logp_V = mixed.weights, mixed.next_logp()
            order = np.argsort(-logp_V)[: request.top]
            token = pick(logp_V, request.sampling, rng)
            if token in served.ends and not request.ignore_ends:
                likeliest = tuple((int(t), float(logp_V[t])) for t in order)
                shown = weights if request.posterior else None
                listener(Token(token, float(logp_V[token]), likeliest, shown))
                return listener(Done("stop", stopped_by=token))
            ids.append(token)
            text = "".join(continuation(self.catalog.tokenizer, request.prompt, ids))
            cuts = [text.index(s) for s in request.stop if s in text]
            if cuts:
                return listener(
                    Done("stop", text[len(told) : min(cuts)], stopped_by=request.stop[0])
                )
            listener(
                Token(
                    token,
                    float(logp_V[token]),
                    tuple((int(t), float(logp_V[t])) for t in order),
                    weights if request.posterior else None,
                    text=text[len(told) :],
                )
            )
            told = text
            mixed.read([token])
            self._written += 1
        listener(Done("length"))
