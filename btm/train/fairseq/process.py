"""fairseq-train as a child process: what it says while it works, and its end."""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from btm.system import durable
from btm.system.json_files import Json
from btm.train.fairseq.command import ENTRY

_UPDATE = re.compile(
    r"\btrain_inner\W+?(\{.*\})$"
)  # between them stands what the form of the log has there
_SAVED = re.compile(r"Saved checkpoint (.+\.pt) \(epoch \d+ @ (\d+) updates")
_TELLS = re.compile(
    r"^(\w+\.)*(\w*(Error|Exception)\b|\w+: error:)|\bout of memory\b|No space left"
)
_TAIL = 40  # lines


@dataclass(frozen=True)
class Update:
    """What is said of one update; the loss in nats per token, rounded to 0.001 bits."""

    loss: float
    lr: float
    norm: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written, whole, after so many updates."""

    path: Path
    updates: int


@dataclass(frozen=True)
class Said:
    """Anything else."""

    text: str


Event = Update | Saved | Said


class Training:
    """A running fairseq-train; leaving the block ends it, whatever else happens."""

    def __init__(
        self, python: str, options: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start it; what it says but for its updates is appended to the file `log`."""
        self.log, self.versions = log, dict[str, str]()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self.stopped = False  # whether it was asked to stop
        # A session of its own: Ctrl-C and signals to our group are ours to pass on.
        self.process = subprocess.Popen(
            [python, str(ENTRY), str(os.getpid()), *options],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:  # until it is waited for, its number is its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def events(self) -> Iterator[Event]:
        """Yield what it says, until it has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield self._understood(line.rstrip("\n"))
        self.process.wait()

    def stop(self) -> None:
        """Ask it to save after the update at hand and end, however long that takes."""
        if not self.stopped:
            self.stopped = True
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def why(self) -> str:
        """Return how it ended, in one line, with the last of its lines that tell."""
        code = self.process.returncode
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        lines = [line.strip() for line in self._tail if line.strip()]
        # What kills it says nothing there.
        telling = [line for line in lines if _TELLS.search(line)] or lines * (code >= 0)
        return " | ".join([how, *telling[-2:]])

    def _understood(self, line: str) -> Event:
        found = _UPDATE.search(line)
        if found and (update := _update(found[1])):
            return update
        self._tail.append(line)
        durable.append_line(self.log, line)
        if not self.versions and line.startswith('{"fairseq":'):
            self.versions = json.loads(line)
        saved = _SAVED.search(line)
        return Saved(Path(saved[1]), int(saved[2])) if saved else Said(line)


def _update(text: str) -> Update | None:
    """Return an update from fairseq's JSON, whose numbers are strings and whose loss is in bits."""
    try:
        values: Json = json.loads(text)
        numbers = [float(values[key]) for key in ("loss", "lr", "gnorm")]
    except (ValueError, KeyError, TypeError):
        return None
    return Update(numbers[0] * math.log(2), *numbers[1:])
