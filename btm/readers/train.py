"""Train a reader on its questions, from wherever an earlier attempt stopped.

What dropout draws and which items a step reads are functions of (seed, step), so a training that
was killed goes on bit for bit from its last checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from btm.config.reader import ReaderConfig
from btm.errors import TrainingStoppedError, UserError
from btm.readers.reader import Reader
from btm.report import Reporter, quiet
from btm.system.json_files import Json
from btm.train import checkpoint

_APART = 1_000_003  # between the generators of two seeds


def steps_of(items: int, how: ReaderConfig) -> int:
    """Count the steps of a training on so many items."""
    return how.epochs * -(-items // how.batch_size)


def fit(
    reader: Reader,
    items: Sequence[Any],
    how: ReaderConfig,
    folder: Path | None = None,
    reporter: Reporter = quiet,
) -> int:
    """Train the model module of `reader` on items whose answers are known; return the steps.

    Checkpoints go into `folder`. Raises `TrainingStoppedError` where it was asked to stop, and
    `UserError` for a loss that is not finite.
    """
    model = reader.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), how.lr, weight_decay=how.weight_decay)
    per_epoch, steps = -(-len(items) // how.batch_size), steps_of(len(items), how)
    done = _restore(reader, optimizer, folder)
    with checkpoint.Writer(behind=False) as writer:
        for step in range(done, steps):
            epoch, turn = divmod(step, per_epoch)
            order = np.random.default_rng([how.seed, epoch]).permutation(len(items))
            some = order[turn * how.batch_size : (turn + 1) * how.batch_size]
            rate = how.lr * (1 - (1 - how.final_lr) * step / steps)
            loss = _step(reader, optimizer, [items[n] for n in some], rate, how.seed, step)
            if not np.isfinite(loss):
                raise UserError(
                    f"the training of the reader stopped at step {step + 1}: loss {loss}; lower "
                    f"reader.lr (it was {rate:g})"
                )
            if turn == per_epoch - 1 and (epoch + 1) % max(1, how.epochs // 10) == 0:
                reporter.line(f"epoch {epoch + 1} of {how.epochs}: loss {loss:.4f}")
            stop = reporter.pulse(step + 1) and step + 1 < steps
            if folder is not None and (stop or (step + 1) % how.checkpoint_every == 0):
                writer.save(folder, model, optimizer, _state(step + 1), dict(model.named_buffers()))
            if stop:
                raise TrainingStoppedError(f"stopped after step {step + 1}")
    model.eval()
    return steps


def _step(
    reader: Reader,
    optimizer: torch.optim.Optimizer,
    items: Sequence[Any],
    rate: float,
    seed: int,
    step: int,
) -> float:
    """Do one step and return its loss; the generator of dropout is as before afterwards."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * _APART + step)
        loss = reader.model.loss(reader.input.batch(items))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _state(step: int) -> Json:
    return {"step": step, "settings": {}, "environment": {}, "notes": []}


def _restore(reader: Reader, optimizer: torch.optim.Optimizer, folder: Path | None) -> int:
    """Take parameters, buffers and moments from the newest checkpoint; return its step, or 0."""
    latest = checkpoint.latest(folder) if folder is not None else None
    if latest is None:
        return 0
    state = checkpoint.read_state(latest)
    checkpoint.load(latest, reader.model, optimizer)
    buffers = dict(reader.model.named_buffers())
    if buffers:
        own = checkpoint.load_own(latest)
        for name, buffer in buffers.items():
            buffer.copy_(own[name])
    return int(state["step"])
