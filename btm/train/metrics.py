"""The metrics of a training: metrics.jsonl, the mirrors and the live report."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from btm.config.training import TrainerConfig
from btm.report import Progress
from btm.system import durable
from btm.train.mirrors import Mirrors

Report = Callable[[Progress], None]


class Metrics:
    """metrics.jsonl, the mirrors and the live report, every `log_every` steps; none of them without
    a file.
    """

    def __init__(
        self,
        file: Path | None,
        step: int,
        steps: int,
        trainer: TrainerConfig,
        tokens: Callable[[int], int],
        report: Report | None,
    ) -> None:
        self.file, self.steps, self.trainer, self.tokens, self.report = (
            file,
            steps,
            trainer,
            tokens,
            report,
        )
        self.begun, self.first = time.monotonic(), step
        self.last_loss: float | None = None
        self.mirrors: Mirrors | None = None
        if file is None:
            return
        kept = _lines_up_to(file, step)
        with durable.publish_file(file) as handle:
            handle.writelines(kept)
        if kept:
            self.last_loss = json.loads(kept[-1])["loss"]
        self.mirrors = Mirrors(trainer.mirrors, file.parent)

    def is_due(self, step: int, valid_nats: float | None) -> bool:
        """Tell whether a step has a line of its own; the same in all processes of a training."""
        due = step % self.trainer.log_every == 0 or step in (1, self.steps)
        return due or valid_nats is not None

    def add(self, step: int, loss: float, lr: float, norm: float, valid_nats: float | None) -> None:
        """Note a step that was done."""
        self.last_loss = loss
        if self.file is None or self.mirrors is None or not self.is_due(step, valid_nats):
            return
        seconds, done = max(time.monotonic() - self.begun, 1e-9), self.tokens(step)
        rate = (done - self.tokens(self.first)) / seconds
        eta = (self.tokens(self.steps) - done) / rate
        progress = Progress(step, self.steps, loss, lr, norm, done, rate, eta, valid_nats)
        durable.append_line(self.file, json.dumps(asdict(progress)))
        self.mirrors.log(asdict(progress), step)
        if self.report:
            self.report(progress)

    def close(self) -> None:
        """Let the mirrors write what they hold."""
        if self.mirrors is not None:
            self.mirrors.close()


def _lines_up_to(file: Path, step: int) -> list[bytes]:
    """Return the lines of an earlier part of this training that its checkpoint still stands for."""
    kept = []
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            break  # a torn line is the last one
    return kept
