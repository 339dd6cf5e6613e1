"""Progress of long work: a bar on a terminal, a line every few seconds in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from btm.report.fit import terminal_width

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """One line of metrics.jsonl. Losses are nats per token; `lr` is that of the step just done."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    eta_seconds: float
    valid_nats: float | None = None


class Reporter:
    """The interface that steps report their progress to; this one is silent."""

    def line(self, text: str) -> None:
        """Report one finished piece of work."""

    def alive(self) -> None:
        """Signal that long work without steps goes on."""

    def pulse(self, step: int) -> bool:
        """Take note of a training step; return whether training must stop after it."""
        return False

    @contextmanager
    def training(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """Yield the function to call with the progress of the training of `name`."""
        yield lambda progress: None

    @contextmanager
    def scoring(self, name: str, tokens: int) -> Iterator[Callable[[int], None]]:
        """Yield the function to call with each count of tokens just scored, of `tokens` in all."""
        yield lambda tokens: None

    @contextmanager
    def reading(self, what: str, size: int) -> Iterator[Callable[[int], None]]:
        """Yield the function to call with each count of bytes just read, of `size` in all."""
        yield lambda more: None


quiet = Reporter()


class Lines(Reporter):
    """Keeps the lines that are reported, for whoever shows them later."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        """Keep one line."""
        self.said.append(text)


class Beating(Reporter):
    """Report to another reporter, and call `beat` at every sign of life: so does work under a
    lease.
    """

    def __init__(self, other: Reporter, beat: Callable[[], None]) -> None:
        """Pass all on to `other`."""
        self.other, self.beat = other, beat

    def line(self, text: str) -> None:
        """Pass a line on."""
        self.beat()
        self.other.line(text)

    def alive(self) -> None:
        """Beat, and signal that long work goes on."""
        self.beat()
        self.other.alive()

    def pulse(self, step: int) -> bool:
        """Beat, and take note of a training step; return whether training must stop after it."""
        self.beat()
        return self.other.pulse(step)

    @contextmanager
    def training(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """Beat at each progress of a training."""
        with self.other.training(name) as report:
            yield _after(self.beat, report)

    @contextmanager
    def scoring(self, name: str, tokens: int) -> Iterator[Callable[[int], None]]:
        """Beat at each batch that is scored."""
        with self.other.scoring(name, tokens) as report:
            yield _after(self.beat, report)

    @contextmanager
    def reading(self, what: str, size: int) -> Iterator[Callable[[int], None]]:
        """Beat at each piece that is read."""
        with self.other.reading(what, size) as report:
            yield _after(self.beat, report)


def _after(beat: Callable[[], None], report: Callable[[Item], None]) -> Callable[[Item], None]:
    """Return a function that beats, then reports."""

    def both(item: Item) -> None:
        beat()
        report(item)

    return both


class ConsoleReporter(Reporter):
    """Report to a stream: one line rewritten on a terminal, one every `every` seconds in a log."""

    def __init__(self, stream: IO[str], every: float = 5.0) -> None:
        self.stream, self.every = stream, every
        self.live = stream.isatty()
        self.width = 0
        self.printed = 0.0

    def line(self, text: str) -> None:
        """Print one whole line."""
        self._clear()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    @contextmanager
    def training(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """Show step, loss, speed and time left, then one line that sums up."""
        last: list[Progress] = []

        def report(p: Progress) -> None:
            last[:] = [p]
            nats = "" if p.valid_nats is None else f"  valid {p.valid_nats:.3f}"
            self._status(
                f"train {name:<14} step {p.step:>6}/{p.steps}  loss {p.loss:.3f}{nats}  "
                f"{p.tokens_per_second:,.0f} tokens/s  {duration(p.eta_seconds)} left",
                p.step / p.steps,
            )

        begun = time.monotonic()
        yield report
        if last:
            p, spent = last[0], duration(time.monotonic() - begun)
            rate = f"{p.tokens_per_second:,.0f} tokens/s"
            self.line(f"trained {name}: {p.step:,} steps in {spent}, loss {p.loss:.3f}, {rate}")

    @contextmanager
    def scoring(self, name: str, tokens: int) -> Iterator[Callable[[int], None]]:
        """Show the speed, then one line that sums up."""
        begun, done = time.monotonic(), 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            rate = done / max(time.monotonic() - begun, 1e-9)
            self._status(f"score {name:<14} {rate:,.0f} tokens/s", done / max(tokens, 1))

        yield report
        if self.live or time.monotonic() - begun >= 1:
            self.line(f"scored {name}: {tokens:,} tokens in {duration(time.monotonic() - begun)}")

    @contextmanager
    def reading(self, what: str, size: int) -> Iterator[Callable[[int], None]]:
        """Show the bytes read and the speed."""
        begun, done = time.monotonic(), 0
        self.printed = begun  # a short reading needs no line in a log

        def report(more: int) -> None:
            nonlocal done
            done += more
            rate = bytes_text(done / max(time.monotonic() - begun, 1e-9))
            self._status(
                f"{what} {bytes_text(done)} of {bytes_text(size)}, {rate}/s", done / max(size, 1)
            )

        yield report
        self._clear()

    def _status(self, text: str, fraction: float) -> None:
        if self.live:
            filled = round(20 * min(fraction, 1.0))
            bar = f"\r{'█' * filled}{'░' * (20 - filled)} {text}"
            if (columns := terminal_width(self.stream)) is not None:
                bar = bar[:columns]  # what wraps cannot be rewritten
            self.stream.write(bar.ljust(self.width))
            self.width = len(bar)
            self.stream.flush()
        elif time.monotonic() - self.printed >= self.every:
            self.printed = time.monotonic()
            self.line(text)

    def _clear(self) -> None:
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.width = 0


def duration(seconds: float) -> str:
    """Format seconds as ``"5 s"``, ``"3 min 05 s"`` or ``"2 h 10 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(name: str, most: int = 28) -> str:
    """Shorten a name to `most` characters for a picture, keeping its end."""
    return drawn(name if len(name) <= most else f"…{name[1 - most :]}")


def drawn(text: str) -> str:
    """Escape what matplotlib would read in a text as mathematics: a path may hold dollars."""
    return text.replace("$", r"\$")


def bytes_text(count: float) -> str:
    """Format a count of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def count_text(count: float) -> str:
    """Return a count as people write it: 1,234, 56.7 k, 8.9 M, 1.2 G and so on up to E."""
    if count < 10_000:
        return f"{count:,.0f}"
    for unit in "kMGTP":
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} E"


def cell(value: Any) -> str:
    """Format a table cell.

    Counts get separators, reals three decimals or powers of ten, lists and dicts commas.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.2e}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    return str(value)
