"""Readers that leave: `btm ls | head`, `btm run 2>&1 | head`.

A result that nobody reads ends the command, as it ends other Unix tools. Progress that nobody reads
ends nothing: a training goes on to its end in silence.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

CLOSED = 141  # exit code: 128 + SIGPIPE, as a shell says it


class Lasting:
    """A stream whose reader may leave, or whose terminal may close; from then on it is silent."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or pretend to."""
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or pretend to."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Let stderr outlast its reader while the block runs."""
    before = sys.stderr
    if before is None:  # it was closed when the command began; print(file=None) means stdout
        try:
            with open(os.devnull, "w") as sys.stderr:  # noqa: PTH123
                yield
        finally:
            sys.stderr = None
        return
    sys.stderr = Lasting(before)
    try:
        yield
    finally:
        sys.stderr = before


def flush_stdout() -> None:
    """Send what was printed; whoever should read it may have left, a `BrokenPipeError`."""
    if sys.stdout is not None:
        sys.stdout.flush()


def silence(stream: IO[str] | None) -> None:
    """Lead a stream nowhere: what is left in its buffer must not meet the closed pipe again when
    Python flushes it at exit.
    """
    with suppress(OSError, ValueError):  # no file stands behind it
        if stream is None:
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def take_any_letters() -> None:
    """Let stdout and stderr replace letters that their encoding lacks, as those of a name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
