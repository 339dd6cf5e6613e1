"""Answers as server-sent events, each sent as soon as it is there."""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from btm.serve.http.calls import Calls, GoneError
from btm.serve.http.errors import ApiError
from btm.serve.http.metrics import Metrics
from btm.system.json_files import Json

# A proxy that collects a stream before it passes it on would defeat its purpose.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_END = b"data: [DONE]\n\n"


class EventStream(Response):
    """A response of server-sent events, which gives up its calls however it ends."""

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncIterator[Json], calls: Calls, metrics: Metrics) -> None:
        """Send `parts`, which are made of what is told of `calls`."""
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._parts, self._calls, self._metrics = parts, calls, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send_all(send)
        except GoneError:
            self._metrics.gone.inc()
        finally:
            self._calls.close()

    async def _send_all(self, send: Send) -> None:
        begun, is_first = asyncio.get_running_loop().time(), True
        end = _END
        try:
            async for part in self._parts:
                if is_first:
                    self._metrics.first_token.observe(asyncio.get_running_loop().time() - begun)
                    is_first = False
                await send({"type": "http.response.body", "body": event(part), "more_body": True})
        except ApiError as error:  # the status is sent: clients find the error in the stream
            end = event(error.body())
        await send({"type": "http.response.body", "body": end, "more_body": False})


def event(part: Json) -> bytes:
    """Write one event."""
    return f"data: {json.dumps(part, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
