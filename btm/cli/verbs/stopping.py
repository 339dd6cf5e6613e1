"""The progress of what a verb does in this process, and the end of it when a signal asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from btm.cli.stops import Stops
from btm.report.progress import ConsoleReporter, Progress


class StoppingReporter(ConsoleReporter):
    """Report to a stream, and stop a training when a signal has asked for it."""

    def __init__(self, stream: IO[str], stops: Stops) -> None:
        super().__init__(stream)
        self.stops = stops

    def pulse(self, step: int) -> bool:
        """Take note that a training is at work; return whether it must stop."""
        self.stops.trains = True
        return super().pulse(step) or self.stops.asked

    @contextmanager
    def training(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """Show a training."""
        self.stops.check()
        with super().training(name) as report:
            try:
                yield report
            finally:
                self.stops.trains = False

    @contextmanager
    def scoring(self, name: str, tokens: int) -> Iterator[Callable[[int], None]]:
        """Show a scoring."""
        self.stops.check()
        with super().scoring(name, tokens) as report:
            yield report

    @contextmanager
    def reading(self, what: str, size: int) -> Iterator[Callable[[int], None]]:
        """Show a reading."""
        self.stops.check()
        with super().reading(what, size) as report:
            yield report
