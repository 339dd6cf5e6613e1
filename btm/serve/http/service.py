"""The state that all endpoints share: models, engine, tokenizer, limits, metrics."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from weakref import WeakSet

from starlette.requests import Request as HttpRequest

from btm.config.serve import ServeConfig
from btm.data.tokenizer import load_tokenizer, size_of
from btm.errors import UserError
from btm.serve.catalog import Catalog, Served
from btm.serve.engine import Engine
from btm.serve.http.asking import Text, text_of
from btm.serve.http.calls import Calls
from btm.serve.http.errors import ApiError, of_engine
from btm.serve.http.metrics import Metrics
from btm.serve.http.pieces import Pieces
from btm.serve.http.wire import Prompt
from btm.serve.request import Request

_SHORT = 4096  # characters that are encoded at once; more would hold up all other clients


@dataclass
class Service:
    """A server at work."""

    limits: ServeConfig
    catalog: Catalog
    engine: Engine
    tokenizer: Any  # a copy of its own: the engine's thread has another
    pieces: Pieces
    size: int  # tokens of the tokenizer
    metrics: Metrics
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    calls: "WeakSet[Calls]" = field(default_factory=WeakSet)  # those that may not be over
    _asked: Iterator[int] = field(default_factory=count)
    began: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def over(cls, limits: ServeConfig, catalog: Catalog, engine: Engine) -> "Service":
        """Serve the models of a catalog by an engine."""
        tokenizer = load_tokenizer(catalog.forest.tokenizer)
        pieces = Pieces(tokenizer)
        return cls(limits, catalog, engine, tokenizer, pieces, size_of(tokenizer), Metrics(engine))

    def find(self, name: str) -> Served:
        """Find a model by its name; `ApiError` if it is not served."""
        try:
            return self.catalog.find(name)
        except UserError as error:
            raise of_engine(error) from None

    async def text(self, prompt: Prompt, param: str = "prompt") -> Text:
        """Encode a prompt; a long one in a thread."""
        # No token is of nothing, but one may be of a whole line of blanks: bytes bound nothing
        # below, so a text is only refused once it is encoded.
        start = self.catalog.start
        if isinstance(prompt, str) and len(prompt) > _SHORT:
            return await asyncio.to_thread(text_of, prompt, self.tokenizer, start, self.size, param)
        return text_of(prompt, self.tokenizer, start, self.size, param)

    def call(self, requests: Sequence[Request], http: HttpRequest) -> Calls:
        """Make the calls of one HTTP request, which has a share of its own (btm/serve/shares.py);
        they are broken off at the end of serve.grace.
        """
        owner = str(next(self._asked))
        owned = [replace(request, owner=owner) for request in requests]
        calls = Calls(self.engine, owned, http.state.gone)
        self.calls.add(calls)
        return calls

    def break_off(self) -> None:
        """Break off all answers: each client is told so, in its stream or as a refusal."""
        message = "the answer was broken off: the server stops"
        for calls in list(self.calls):
            calls.break_off(ApiError(503, message, code="stopping", headers={"Retry-After": "5"}))

    def check_ready(self) -> None:
        """Raise `ApiError` while the server stops."""
        if self.stopping.is_set():
            message = "the server is stopping"
            raise ApiError(503, message, code="stopping", headers={"Retry-After": "5"})


def service_of(request: HttpRequest) -> Service:
    """Return the service that a request came to."""
    return request.app.state.service
