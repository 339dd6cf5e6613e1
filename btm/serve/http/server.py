"""uvicorn at work: the socket, the signals, and clients that neither send nor read."""

import asyncio
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from btm.config.serve import ServeConfig
from btm.errors import UserError
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.http.app import build
from btm.serve.http.service import Service

_HEAD = 64 << 10  # bytes of the line and the headers of a request
_LAST_WORDS = 2  # seconds to tell clients that their answer is broken off
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_log = logging.getLogger("btm.serve")


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; `UserError` if it is taken, or none of this machine."""
    where = f"serve.host={host} serve.port={port}"
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from None
    family, kind, protocol, _, address = found
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UserError(f"{where}: {error.strerror}; give another serve.port=, or 0") from None
    return listening


def url_of(listening: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, which a signal stops gracefully; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.should_exit = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear signals; uvicorn's own would raise them again after an orderly end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # One that is ignored stays so: nohup ignores SIGHUP.
        heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop; the second time, at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take on nothing more, let answers end within `serve.grace`, then stop.

        Answers that are not over by then are broken off while there is still time to say so.
        """
        self._service.stopping.set()
        loop = asyncio.get_running_loop()
        ending = loop.call_later(self._service.limits.grace, self._service.break_off)
        await super().shutdown(sockets)
        ending.cancel()


class PatientProtocol(H11Protocol):
    """HTTP/1.1 of clients that must send and read within `patience` seconds.

    A client that does not read fills what the kernel and the transport hold, and then writing
    stops: from there on its time runs. One that does not end its headers has as long.
    """

    patience: float = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Expect a request."""
        super().connection_made(transport)
        self._reading = self._soon("did not send a request")

    def data_received(self, data: bytes) -> None:
        """Read; the rest of a request's headers may take its time, not more."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._reading)
            self._reading = None
        elif self._reading is None and self.conn.trailing_data[0]:
            self._reading = self._soon("did not end its headers")

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._writing = self._soon("did not read its answer")

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        _cancel(self._writing)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        _cancel(self._reading)
        _cancel(self._writing)
        super().connection_lost(exc)

    def _soon(self, what: str) -> asyncio.TimerHandle:
        return self.loop.call_later(self.patience, self._hang_up, what)

    def _hang_up(self, what: str) -> None:
        _log.info("a client %s within %g s: hung up", what, self.patience)
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def make(limits: ServeConfig, catalog: Catalog, engine: Engine, token: str | None) -> Server:
    """Make the server of a catalog; `Server.serve` runs it."""
    app, service = build(limits, catalog, engine, token)
    patient = type("Patient", (PatientProtocol,), {"patience": limits.patience})
    config = uvicorn.Config(
        app,
        http=patient,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEAD,
        timeout_graceful_shutdown=math.ceil(limits.grace) + _LAST_WORDS,
        backlog=128,
    )
    return Server(config, service)


def run(
    limits: ServeConfig,
    catalog: Catalog,
    token: str | None,
    ready: Callable[[str], None],
    engine: Engine,
) -> None:
    """Serve until a signal comes; `ready` is told the URL once requests are taken on."""
    listening = bind(limits.host, limits.port)
    server = make(limits, catalog, engine, token)
    engine.start()
    try:
        asyncio.run(_serve(server, listening, ready))
    finally:
        engine.close()


async def _serve(server: Server, listening: socket.socket, ready: Callable[[str], None]) -> None:
    url = url_of(listening)

    async def tell() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        ready(url)

    telling = asyncio.create_task(tell())
    await server.serve([listening])
    telling.cancel()
