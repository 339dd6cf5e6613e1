"""One HTTP endpoint that is asked for JSON: timeouts, retries, answers of bounded size.

What it answers is input from outside: redirects are not followed, an answer is read up to a limit
in bytes and in seconds, and what is no JSON is an error.
"""

import os
import random
import threading
import time
from typing import Any

from btm.config.remote_experts import RemoteExpert
from btm.errors import UserError
from btm.system.extras import install
from btm.system.json_files import parse_json

_FIRST_WAIT = 0.1  # seconds before a request is sent again; twice as long each time
_BYTES = 1 << 20  # of an answer
_SAID = 300  # characters of a server's own message that are passed on


class SilentError(UserError):
    """An endpoint did not answer, or answered what makes no sense, as often as it was asked."""


class RefusedError(UserError):
    """An endpoint says that the request itself is wrong: asking again would change nothing."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _AgainError(Exception):
    """This time there was no answer; `after`: seconds that the server asks to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Endpoint:
    """An endpoint; several threads may ask it at once."""

    def __init__(self, expert: RemoteExpert) -> None:
        """Connect to nothing yet."""
        try:
            import httpx2
        except ImportError:
            raise UserError(f"serve.remote needs httpx2; run: {install('serve')}") from None
        self._expert = expert
        self._closed = threading.Event()
        # Neither proxies nor keys of the environment: only what the configuration names.
        self._client = httpx2.Client(
            timeout=expert.timeout,
            headers=_headers(expert),
            follow_redirects=False,
            trust_env=False,
        )
        self._error = httpx2.HTTPError

    def close(self) -> None:
        """Ask no more; what waits to be sent again is given up."""
        self._closed.set()
        self._client.close()

    def get(self, path: str) -> Any:
        """Ask for a resource below the expert's URL; see `post`."""
        return self._ask("GET", self._expert.url + path, None, _BYTES)

    def post(self, path: str, body: Any, *, beside: bool = False, most: int = _BYTES) -> Any:
        """Send JSON; return the JSON that is answered, of at most so many bytes.

        With `beside` the path is beside /v1, not below. Raises `RefusedError` where the server
        refuses, `SilentError` where it does not answer in time, or not with JSON.
        """
        base = self._expert.url.removesuffix("/v1") if beside else self._expert.url
        return self._ask("POST", base + path, body, most)

    def _ask(self, method: str, url: str, body: Any, most: int) -> Any:
        wait = _FIRST_WAIT
        for left in range(self._expert.retries, -1, -1):
            try:
                return self._once(method, url, body, most)
            except _AgainError as error:
                said, after = str(error), error.after
            # Jitter, so that many clients of one server do not come back all at once.
            pause = max(min(after, self._expert.timeout), wait * random.uniform(0.5, 1.5))
            if not left or self._closed.wait(pause):
                break
            wait *= 2
        raise SilentError(f"{self._expert.where}: {said}")

    def _once(self, method: str, url: str, body: Any, most: int) -> Any:
        until = time.monotonic() + self._expert.timeout
        try:
            with self._client.stream(method, url, json=body) as response:
                content = self._read(response, until, most)
        except (self._error, OSError, RuntimeError) as error:  # RuntimeError: it was closed
            raise _AgainError(f"no answer: {_plain(error) or type(error).__name__}") from None
        status = response.status_code
        if status in (408, 425, 429) or status >= 500:
            after = response.headers.get("retry-after", "")
            seconds = float(after) if after.isascii() and after.isdigit() else 0.0
            raise _AgainError(f"{status}: {_message(content)}", min(seconds, 3600.0))
        if status >= 300:
            why = "a redirect, which is not followed" if status < 400 else _message(content)
            raise RefusedError(f"{self._expert.where}: {status}: {why}", status)
        try:
            return parse_json(content)
        except (ValueError, UnicodeError):
            message = (
                "the answer is no JSON: wanted the URL of OpenAI's API, as http://HOST:PORT/v1"
            )
            raise SilentError(f"{self._expert.where}: {message}") from None

    def _read(self, response: Any, until: float, most: int) -> bytes:
        """Read a body; one that comes drop by drop has no longer than others."""
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > most:
                raise SilentError(f"{self._expert.where}: an answer of over {most:,} bytes")
            if time.monotonic() > until:
                raise _AgainError(f"the answer took over {self._expert.timeout:g} s")
        return bytes(content)


def _headers(expert: RemoteExpert) -> dict[str, str]:
    headers = {"Accept": "application/json"}
    if expert.key_env is not None:
        key = os.environ.get(expert.key_env, "")
        if not (key and key.isascii() and key.isprintable()):
            raise UserError(
                f"serve.remote.{expert.name}.key_env={expert.key_env}: that variable of the "
                "environment holds no key"
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _message(content: bytes) -> str:
    """Find the message in an error of OpenAI's shape, or take the text as it is."""
    try:
        value = parse_json(content)
        error = value.get("error", value)
        return _plain(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _plain(content.decode("utf-8", "replace")) or "no reason given"


def _plain(said: object) -> str:
    """Write what came from outside on one line, without control characters."""
    line = " ".join(str(said).split())
    return "".join(c for c in line if c.isprintable())[:_SAID]
