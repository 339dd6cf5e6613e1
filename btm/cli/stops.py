"""Ctrl-C and signals to stop, of a command that works in this process.

The first during a training asks it to stop after a checkpoint, the second ends it at once; where
nothing trains, the first does. What is finished stands in each case, and the same command does the
rest.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TOLD = b"\nbtm: stopping after a checkpoint; once more stops at once\n"


class Stops:
    """The signals that a command has received, and what they ask it to do."""

    def __init__(self) -> None:
        self.number = signal.SIGINT  # the last signal that came
        self.asked = False  # to stop, after a checkpoint
        self.trains = False
        self._process = os.getpid()

    @property
    def exit_code(self) -> int:
        """The exit code of a command that a signal stopped, as a shell says it."""
        return 128 + self.number

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals while the block runs; one that is ignored, as under nohup, stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        taken = [number for number in _SIGNALS if before[number] != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._take)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def check(self) -> None:
        """Stop here, between two pieces of work, if it was asked for."""
        if self.asked:
            raise KeyboardInterrupt

    def _take(self, number: int, _: object) -> None:
        if os.getpid() != self._process:  # a process that was forked has no part in this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.number = signal.Signals(number)
        if self.asked or not self.trains:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(OSError):  # a print here might meet another that is half done
            os.write(2, _TOLD)
