"""The answers to one HTTP request, while the engine's thread writes them.

The engine calls back from a thread of its own; what it tells is handed to the event loop, where one
queue takes it for all answers of a request, which are told apart by their index.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType

from btm.errors import UserError
from btm.serve.engine import Engine
from btm.serve.http.errors import ApiError, of_engine
from btm.serve.request import Done, Event, Listener, Request

_BACKLOG = 512  # events of one answer that may wait for a client that reads slowly
_log = logging.getLogger("btm.serve")

Told = tuple[int, Event]  # the index of an answer, and what is told of it


class GoneError(Exception):
    """The client has hung up: nobody waits for an answer."""


class Calls:
    """Several requests in the engine, which are given up together.

    A context: whatever is not over when it is left is cancelled, and frees its place.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], gone: asyncio.Event) -> None:
        """Take on nothing yet; `gone` is set when the client has hung up."""
        self._engine, self._requests, self._gone = engine, requests, gone
        self._queue: asyncio.Queue[Told | Exception] = asyncio.Queue()
        self._numbers: dict[int, int] = {}  # {index: number in the engine} of what is not over
        self._loop = asyncio.get_running_loop()
        self._is_broken = False

    def submit(self) -> None:
        """Have the engine take on all of them, or none: `ApiError` where it does not."""
        try:
            for index, request in enumerate(self._requests):
                self._numbers[index] = self._engine.submit(request, self._listener(index))
        except UserError as error:
            self.close()
            raise of_engine(error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up whatever is not over."""
        for number in self._numbers.values():
            self._engine.cancel(number)
        self._numbers.clear()

    def __enter__(self) -> "Calls":
        self.submit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def events(self) -> AsyncIterator[Told]:
        """Yield what is told of each answer, until all are over.

        `GoneError` when the client hangs up, `ApiError` when the engine fails or they are broken
        off.
        """
        watch = asyncio.create_task(self._watch())
        try:
            while self._numbers:
                found = await self._queue.get()
                if isinstance(found, Exception):
                    raise found
                index, event = found
                if isinstance(event, Done):
                    del self._numbers[index]
                    _require_whole(event)
                yield index, event
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        await self._gone.wait()
        self._queue.put_nowait(GoneError())

    def _listener(self, index: int) -> Listener:
        def listener(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._take, index, event)

        return listener

    def _take(self, index: int, event: Event) -> None:
        if self._is_broken:
            return
        self._queue.put_nowait((index, event))
        # The engine cannot wait for one client: what nobody reads would grow in memory.
        if self._queue.qsize() > _BACKLOG * len(self._requests):
            message = "the client read its answer more slowly than it was written, and was cut off"
            self.break_off(ApiError(408, message, code="slow_reader"))

    def break_off(self, why: ApiError) -> None:
        """Give up whatever is not over, and say why behind what was told already."""
        self._is_broken = True
        for number in self._numbers.values():
            self._engine.cancel(number)
        self._queue.put_nowait(why)


def _require_whole(done: Done) -> None:
    if done.reason == "error":
        _log.error("the engine failed at a request: %s", done.error)
        raise ApiError(500, "the model failed at this request; the log says how", code="internal")
    if done.reason == "cancelled":
        message = "the answer was broken off: the server stops, or the model was removed"
        raise ApiError(503, message, code="cancelled", headers={"Retry-After": "5"})
