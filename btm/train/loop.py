"""The training loop of one ELM: next-token loss on its own data, talking to nobody.

Everything random is a function of (trainer.seed, step), and the batches are too, so the step and
the tensors are the whole state: a run that was killed and resumed gives the same bytes as one that
was not, on the same thread count, torch version and instruction set.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.training import TrainerConfig
from btm.data.batches import Batches, Windows
from btm.errors import UserError
from btm.forest.paths import ModelFolder
from btm.models import causal_lm
from btm.system import durable, lease
from btm.train import checkpoint, optimizers
from btm.train.metrics import Metrics, Report
from btm.train.resume import environment_of, resume, settings_of
from btm.train.schedule import Schedule
from btm.train.trainee import Trainee, apply, compiled_layers, validate

if TYPE_CHECKING:
    pass


class TrainingFailedError(UserError):
    """The loss or the gradient is no longer finite; the last good checkpoint stands."""


class TrainingStoppedError(Exception):
    """The training was asked to stop, and did so after a checkpoint; the same call goes on from
    there.
    """


Pulse = Callable[[int], bool]  # told of every step; returns whether the training should stop


def train(
    folder: Path,
    batches: Batches,
    trainer: TrainerConfig,
    schedule: Schedule,
    steps: int,
    *,
    valid: Windows | None = None,
    moments: Path | None = None,
    keep_moments: bool = False,
    report: Report | None = None,
    pulse: Pulse = lambda step: False,
) -> dict[str, Any]:
    """Train the model in `folder` for `steps`, in place, and return what its card should say.

    Resumes from the newest checkpoint in `folder`. `moments` is an optimizer.safetensors to begin
    with (the policy `continue`), which `keep_moments` leaves for others. Raises
    `TrainingFailedError` where the loss stops being finite, `UserError` if the checkpoint belongs
    to other settings, and `TrainingStoppedError`, after a checkpoint, when `pulse` says so.
    """
    trainee = Trainee(causal_lm.load_trainable(folder, trainer.device), batches)
    return loop(
        folder,
        trainee,
        trainer,
        schedule,
        steps,
        valid=valid,
        moments=moments,
        keep_moments=keep_moments,
        report=report,
        pulse=pulse,
    )


def loop(
    folder: Path,
    trainee: Trainee,
    trainer: TrainerConfig,
    schedule: Schedule,
    steps: int,
    *,
    valid: Windows | None = None,
    moments: Path | None = None,
    keep_moments: bool = False,
    report: Report | None = None,
    pulse: Pulse = lambda step: False,
) -> dict[str, Any]:
    """Train `trainee`, whose model came from `folder`; all else is as `train` says."""
    import torch

    from btm.train import kernels

    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    model, stored_dtype = trainee.model, causal_lm.stored_dtype(folder)
    if trainer.kernels:
        kernels.prepare(model)
    if trainer.gradient_checkpointing:
        causal_lm.checkpoint_gradients(model)
    optimizer = optimizers.make_optimizer(model, trainer)
    settings = settings_of(trainer, schedule, steps)
    precision = causal_lm.pick_precision(trainer.precision, str(model.device))
    environment = environment_of(precision, trainer) | {"processes": trainee.processes}
    state = resume(folder, trainee, optimizer, settings | trainee.settings(), environment)
    trainee.restore(checkpoint.latest(folder))
    if state["step"] == 0 and moments is not None:
        trainee.load_moments(moments, optimizer)

    if state["step"] < steps:
        durable.require_space(folder, checkpoint.disk_bytes(model))
    layers = compiled_layers(trainee, trainer, precision, state, steps)
    file = ModelFolder(folder).metrics if trainee.leads else None
    metrics = Metrics(file, state["step"], steps, trainer, trainee.tokens, report)
    with kernels.waiting.considerate(), checkpoint.Writer(behind=trainer.write_behind) as writer:
        for step in range(state["step"], steps):
            lr = schedule.lr(step)
            torch.manual_seed(trainer.seed * 1_000_003 + step)
            with layers.step():
                loss = trainee.backward(step, trainer, precision)
                norm = trainee.norm()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    writer.wait()
                    trainee.drop(folder, step)
                    raise _failed(folder, step + 1, f"loss {loss}, gradient norm {norm}", lr)
                apply(optimizer, lr, optimizers.shrink(norm, trainer.clip))
            done = step + 1
            trainee.constrain(optimizer, done)
            nats = None
            if valid is not None and trainer.valid_every and done % trainer.valid_every == 0:
                with layers.plain():
                    nats = validate(model, valid, trainee.logp)
            metrics.add(done, loss, lr, norm, nats)
            writer.check()
            stop = pulse(done)
            if stop or done % trainer.checkpoint_every == 0 or done == steps:
                if not trainee.finite():
                    writer.wait()
                    raise _failed(folder, done, "parameters that are not finite", lr)
                state |= {"step": done, "compiled": layers.state}
                trainee.save(writer, folder, optimizer, state)
            if stop and done < steps:
                metrics.close()
                writer.wait()
                raise TrainingStoppedError(f"stopped after step {done}")
    layers.stop()
    metrics.close()
    if keep_moments:
        trainee.save_moments(folder / checkpoint.MOMENTS, optimizer)
    size = optimizers.state_size(optimizer)
    trainee.write(folder, stored_dtype)
    return {
        "steps": steps,
        "tokens": trainee.tokens(steps),
        "flops": trainee.flops(steps),
        "exact": state["exact"],
        "notes": [
            *state["notes"],
            *layers.notes,
            *([] if trainer.optimizer == "adamw" else [f"{trainer.optimizer}: {size}"]),
        ],
        "optimizer": asdict(size),
        "loss": metrics.last_loss,
        "trainer": asdict(trainer),
        "precision": precision,
        "schedule": asdict(schedule),
    }


def _failed(folder: Path, step: int, found: str, lr: float) -> TrainingFailedError:
    kept = checkpoint.latest(folder)
    return TrainingFailedError(
        f"training of {lease.name_of(folder)!r} stopped at step {step}: {found}; "
        f"last good state: {kept.name if kept else 'the branch itself'}. "
        f"Lower trainer.lr (it was {lr:g}), delete {folder.with_name(lease.name_of(folder))} and "
        "branch again"
    )
