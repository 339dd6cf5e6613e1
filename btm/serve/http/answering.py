"""Have the engine answer, and make one body or a stream of it: what both kinds of answer share."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.serve.catalog import Served
from btm.serve.http.asking import Text, several
from btm.serve.http.calls import Calls, GoneError
from btm.serve.http.choice import Choice, Piece
from btm.serve.http.service import Service, gone_of, service_of
from btm.serve.http.shapes import Head, usage
from btm.serve.http.stream import EventStream
from btm.serve.http.wire import Choosing
from btm.serve.request import Prompt, Request
from btm.system.json_files import Json


class Writer(Protocol):
    """How an answer looks: as a completion, or as a message of a chat."""

    def whole(self, index: int, piece: Piece) -> Json:
        """Write a whole answer."""

    def part(self, index: int, piece: Piece) -> Json:
        """Write what is new of an answer."""

    def first(self, index: int) -> Json | None:
        """Write what comes before the first text; None: nothing."""


@dataclass(frozen=True)
class Asked:
    """Requests to the engine for one HTTP request, in the order of their index."""

    served: Served
    texts: Sequence[Text]  # the prompts
    requests: Sequence[Request]  # one for each prompt
    echo: bool
    body: Choosing


@dataclass
class _Run:
    """The answers to one HTTP request."""

    asked: Asked
    service: Service
    choices: list[Choice] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        asked = self.asked
        for text, request in zip(asked.texts, asked.requests, strict=True):
            for each in several(request, asked.body.n):
                self.requests.append(each)
                self.choices.append(
                    Choice(each, text, asked.served, self.service.tokenizer, echo=asked.echo)
                )

    def usage(self) -> Json:
        """Count tokens; a prompt counts once, however many answers it has."""
        read = sum(len(text.all) for text in self.asked.texts)
        return usage(read, sum(choice.written for choice in self.choices))


async def answer(http: HttpRequest, asked: Asked, writer: Writer, head: Head) -> Response:
    """Answer a request, whole or as a stream."""
    service = service_of(http)
    service.check_ready()
    run = _Run(asked, service)
    calls = Calls(service.engine, run.requests, gone_of(http))
    calls.submit()
    if not asked.body.stream:
        return await _whole(run, calls, writer, head)
    return EventStream(_parts(run, calls, writer, head), calls, service.metrics)


async def _whole(run: _Run, calls: Calls, writer: Writer, head: Head) -> Response:
    pieces = [Piece() for _ in run.choices]
    try:
        async for index, event in calls.events():
            new = run.choices[index].take(event)
            pieces[index].text += new.text
            pieces[index].tokens += new.tokens
            pieces[index].finish, pieces[index].lost = new.finish, new.lost
    except GoneError:
        run.service.metrics.gone.inc()
        return Response(status_code=499)  # nobody reads it
    finally:
        calls.close()
    choices = [writer.whole(index, piece) for index, piece in enumerate(pieces)]
    return JSONResponse(head.body(choices) | {"usage": run.usage()})


async def _parts(run: _Run, calls: Calls, writer: Writer, head: Head) -> AsyncIterator[Json]:
    options = run.asked.body.stream_options
    counts = options is not None and options.include_usage
    extra: Json = {"usage": None} if counts else {}
    async for index, event in calls.events():
        if isinstance(event, Prompt) and (first := writer.first(index)) is not None:
            yield head.body([first]) | extra
        new = run.choices[index].take(event)
        if new.text or new.tokens or new.finish is not None:
            yield head.body([writer.part(index, new)]) | extra
        await asyncio.sleep(0)  # let others have their turn where much is told at once
    if counts:
        yield head.body([]) | {"usage": run.usage()}
