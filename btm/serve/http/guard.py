"""Refuse requests before a route is looked at, and notice when a client hangs up.

A browser sends requests to this machine for any page that asks it to. Such a page cannot read the
answers without CORS headers, of which there are none; `Origin`, `Host` and the type of the content
are looked at too, since a request may do harm that nobody reads, and since a name of the page's own
may point here (DNS rebinding).
"""

import asyncio
import hmac
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from btm.config.serve import ServeConfig
from btm.serve.http import page
from btm.serve.http.access import is_loopback
from btm.serve.http.errors import ApiError
from btm.serve.http.metrics import Metrics

OPEN = ("/health", "/ready", page.ROOT)  # for probes and for browsers, which carry no token
_CLOSE = {"Connection": "close"}  # what is left of the body is not read


class Guard:
    """An ASGI application around another: it reads bodies within limits, and watches clients.

    The inner application finds an `asyncio.Event` in ``scope["state"]["gone"]``, which is set when
    the client has hung up.
    """

    def __init__(
        self, app: ASGIApp, limits: ServeConfig, token: str | None, metrics: Metrics
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the inner application answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, noted)
        finally:
            endpoint = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(time.monotonic() - begun)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check(scope["path"], scope["method"], headers)
            body = await self._read(headers, receive)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        if body is None:  # the client hung up before it had asked
            return
        gone = asyncio.Event()
        scope.setdefault("state", {})["gone"] = gone
        watch = asyncio.create_task(_watch(receive, gone))
        try:
            await self._app(scope, _again(body, gone), send)
        finally:
            watch.cancel()

    def _check(self, path: str, method: str, headers: Headers) -> None:
        """Raise `ApiError` for a request from elsewhere, without the token, or of another type."""
        self._check_host(headers)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            message = "requests of other sites' pages are not answered"
            raise ApiError(403, message, code="cross_origin", headers=_CLOSE)
        if self._token is not None and path not in OPEN and not path.startswith(page.STATIC):
            self._check_token(headers.get("authorization", ""))
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            message = f"Content-Type {kind[:60]!r}: wanted application/json"
            raise ApiError(415, message, code="unsupported_media_type", headers=_CLOSE)

    def _check_host(self, headers: Headers) -> None:
        """Refuse names of others for this machine, where no token stands before it."""
        if self._token is not None:
            return
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not is_loopback(name) and name != self._limits.host:
            message = "this server answers to localhost and 127.0.0.1 alone"
            raise ApiError(403, message, code="unknown_host", headers=_CLOSE)

    def _check_token(self, given: str) -> None:
        scheme, _, token = given.partition(" ")
        # In constant time: how long a refusal takes tells nothing of how much was right.
        is_right = hmac.compare_digest(token.strip().encode(), self._token or b"")
        if scheme.lower() != "bearer" or not is_right:
            wanted = {"WWW-Authenticate": "Bearer"} | _CLOSE
            message = "this server wants a token: Authorization: Bearer TOKEN"
            raise ApiError(401, message, code="invalid_api_key", headers=wanted)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """Read the body; None if the client hangs up, `ApiError` if it is too long or too slow."""
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared[:20]) > self._limits.max_body:
            raise self._too_long()
        try:
            async with asyncio.timeout(self._limits.patience):
                return await self._collect(receive)
        except TimeoutError:
            message = f"the body did not come within {self._limits.patience:g} seconds"
            raise ApiError(408, message, code="timeout", headers=_CLOSE) from None

    async def _collect(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.max_body:
                raise self._too_long()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_long(self) -> ApiError:
        most = self._limits.max_body
        message = f"the body has more than {most:,} bytes, which this server allows"
        return ApiError(413, message, code="request_too_large", headers=_CLOSE)


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _again(body: bytes, gone: asyncio.Event) -> Receive:
    """Hand over a body that was read, and then nothing until the client hangs up."""
    left: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for message in left:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive
