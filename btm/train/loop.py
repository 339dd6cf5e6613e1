"""The training loop of one ELM: next-token loss on its own data, talking to nobody.

Everything random is a function of (trainer.seed, step), and the batches are too, so the step and the
tensors are the whole state: a run that was killed and resumed gives the same bytes as one that was not,
on the same thread count, torch version and instruction set.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from btm.config.schema import TrainerConfig
from btm.data.batches import Batches, Windows
from btm.errors import UserError
from btm.forest import ledger
from btm.models import causal_lm
from btm.system import durable, lease
from btm.train import checkpoint, optimizers
from btm.train.metrics import Metrics, Report
from btm.train.schedule import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from btm.train import kernels

# What may change between the parts of one training without changing its result.
_FREE = {"threads", "checkpoint_every", "log_every", "mirrors", "device", "steps", "lr", "parallel"}
_FREE |= {"gradient_checkpointing", "offload", "write_behind"}  # the same numbers, at other times or places
_FREE |= {"kernels", "compile"}  # the same up to rounding; `_environment` and the state keep them


class TrainingFailedError(UserError):
    """The loss or the gradient is no longer finite; the last good checkpoint stands."""


class TrainingStoppedError(Exception):
    """The training was asked to stop, and did so after a checkpoint; the same call goes on from there."""


Pulse = Callable[[int], bool]  # told of every step; returns whether the training should stop
# Of inputs and targets (rows, tokens): log p of each, or a mean.
OfTargets = Callable[["Tensor", "Tensor"], "Tensor"]


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

    Resumes from the newest checkpoint in `folder`. `moments` is an optimizer.safetensors to begin with
    (the policy `continue`), which `keep_moments` leaves for others. Raises `TrainingFailedError` where
    the loss stops being finite, `UserError` if the checkpoint belongs to other settings, and
    `TrainingStoppedError`, after a checkpoint, when `pulse` says so.
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


@dataclass
class Trainee:
    """What `loop` trains: a model on the batches of one mix; DEMix, sparse and distributed training override parts."""

    model: "PreTrainedModel"
    batches: Batches
    may_compile: ClassVar[bool] = True

    leads = True  # of several processes that train together, one writes metrics and weights
    processes = "1"  # how many these are, and what each holds

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> float:
        """Add the gradient of a step's loss; return the loss in nats per token."""
        return backward(self.model, self.batches.batch(step), trainer, precision)

    def logp(self, inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Return log p(target | inputs so far), as `models.token_logp` does."""
        return causal_lm.token_logp(self.model, inputs, targets)

    def norm(self) -> float:
        """Return the norm of the gradients that is bounded."""
        return optimizers.gradient_norm(self.model)

    def finite(self) -> bool:
        """Tell whether all parameters are finite."""
        import torch

        return all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())

    def load_moments(self, file: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Begin with the moments of the parent."""
        checkpoint.load_moments(file, self.model, optimizer)

    def save_moments(self, file: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Publish the moments, for trainings that continue this one."""
        checkpoint.save_moments(file, self.model, optimizer)

    def save(
        self,
        writer: checkpoint.Writer,
        folder: Path,
        optimizer: "torch.optim.Optimizer",
        state: dict[str, Any],
    ) -> None:
        """Publish a checkpoint in `folder`."""
        writer.save(folder, self.model, optimizer, state, self.state())

    def load(self, found: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Take up parameters and moments of the checkpoint `found`."""
        checkpoint.load(found, self.model, optimizer)

    def drop(self, folder: Path, step: int) -> None:
        """Delete the checkpoint of `step`, if there is one: its parameters gave a loss that is not finite."""
        checkpoint.drop(folder, step)

    def tokens(self, steps: int) -> int:
        """Return the tokens of the first `steps` steps."""
        return self.batches.tokens(steps)

    def flops(self, steps: int) -> float:
        """Return the FLOPs of the first `steps` steps."""
        return self.tokens(steps) * ledger.Shape.of(self.model).training_flops(self.batches.seq_len)

    def settings(self) -> dict[str, Any]:
        """Return what a resumed training must have in common with its first part, beside the trainer's settings."""
        growth = self.batches.growth
        data = {"data": {shard.domain: shard.sha256[:16] for shard in self.batches.shards}}
        return data if growth.factor == 1 else data | {"growth": asdict(growth)}

    def constrain(self, optimizer: "torch.optim.Optimizer", done: int) -> None:
        """Hold the parameters to what they may be, after step `done`."""

    def state(self) -> "dict[str, Tensor]":
        """Return what a checkpoint must keep beside parameters and moments."""
        return {}

    def restore(self, found: Path | None) -> None:
        """Take up the `state` of a checkpoint whose parameters stand in the model; None: begin."""

    def write(self, folder: Path, dtype: str) -> None:
        """Replace the weights in `folder` by the trained ones, stored as `dtype`."""
        causal_lm.write(folder, self.model, dtype)


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
    environment = _environment(precision, trainer) | {"processes": trainee.processes}
    state = _resume(folder, trainee, optimizer, settings | trainee.settings(), environment)
    trainee.restore(checkpoint.latest(folder))
    if state["step"] == 0 and moments is not None:
        trainee.load_moments(moments, optimizer)

    if state["step"] < steps:
        durable.require_space(folder, checkpoint.disk_bytes(model))
    layers = _layers(trainee, trainer, precision, state, steps)
    file = folder / "metrics.jsonl" if trainee.leads else None
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


def settings_of(trainer: TrainerConfig, schedule: Schedule, steps: int) -> dict[str, Any]:
    """Return the settings that the parts of one training must have in common."""
    kept = {key: value for key, value in asdict(trainer).items() if key not in _FREE}
    return kept | asdict(schedule) | {"steps": steps}


def require_same(found: Path, begun: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise `UserError` if the checkpoint `found` was begun with other settings."""
    # A setting that is younger than the checkpoint had its default.
    begun = asdict(TrainerConfig()) | begun
    changed = sorted(key for key in settings if begun.get(key) != settings[key])
    if changed:
        was = ", ".join(f"{key} was {begun.get(key)}, now {settings[key]}" for key in changed)
        raise UserError(
            f"{lease.name_of(found.parent)!r} is half trained with other settings ({was}): "
            f"restore them, or delete {found}"
        )


def _failed(folder: Path, step: int, found: str, lr: float) -> TrainingFailedError:
    kept = checkpoint.latest(folder)
    return TrainingFailedError(
        f"training of {lease.name_of(folder)!r} stopped at step {step}: {found}; "
        f"last good state: {kept.name if kept else 'the branch itself'}. "
        f"Lower trainer.lr (it was {lr:g}), delete {folder.with_name(lease.name_of(folder))} and branch again"
    )


def validate(
    model: "PreTrainedModel", windows: Windows, logp_of: OfTargets | None = None, rows: int = 32
) -> float:
    """Return the mean nats per token of `model` on `windows`; `logp_of` is what wraps it, if anything does."""
    import torch

    was_training = model.training
    model.eval()
    total, counted = 0.0, 0
    with torch.inference_mode():
        for start in range(0, windows.n_windows, rows):
            stop = min(start + rows, windows.n_windows)
            inputs, targets = (torch.from_numpy(a(start, stop)) for a in (windows.inputs, windows.targets))
            logp = (logp_of or partial(causal_lm.token_logp, model))(
                inputs.to(model.device), targets.to(model.device)
            )
            flat = logp.flatten()[: windows.n_tokens - counted]
            total -= float(flat.double().sum())
            counted += len(flat)
    model.train(was_training)
    return total / windows.n_tokens


def backward(
    model: "PreTrainedModel",
    tokens: Any,
    trainer: TrainerConfig,
    precision: str,
    nll: OfTargets | None = None,
    before: Callable[[bool], None] = lambda is_last: None,
) -> float:
    """Add the gradient of the mean loss on `tokens` (batch, seq_len + 1); return that loss in nats per token.

    `nll` is what wraps the model, if anything does; `before` is called ahead of each micro-batch.
    """
    import torch

    from btm.train import kernels

    nll = nll or partial(kernels.loss.chosen(trainer.kernels), model)
    batch: Tensor = torch.from_numpy(tokens).to(model.device)
    micro = trainer.micro_batch_size or len(batch)
    loss_sum = 0.0
    parts = batch.split(micro)
    for number, part in enumerate(parts, 1):
        before(number == len(parts))
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = nll(part[:, :-1], part[:, 1:]) * (len(part) / len(batch))
        loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum


def apply(optimizer: "torch.optim.Optimizer", lr: float, divisor: float = 1.0) -> None:
    """Do the optimizer's step with the gradients that stand there, divided by `divisor`, and clear them."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizers.step(optimizer, divisor)
    optimizer.zero_grad(set_to_none=True)


def _layers(
    trainee: Trainee, trainer: TrainerConfig, precision: str, state: dict[str, Any], steps: int
) -> "kernels.compiled.Layers":
    """Return the layers of a training that goes on from `state`, compiled or not as that says."""
    from btm.train import kernels

    step, decided = state["step"], state.get("compiled")
    how = trainer.compile if trainee.may_compile and not trainer.gradient_checkpointing else "never"
    layers = kernels.compiled.Layers(
        trainee.model, how, steps - step, decided, lambda: trainee.backward(step, trainer, precision)
    )
    if decided is not None and layers.state != decided:
        now = "compiled" if layers.state else "not compiled"
        state |= {"exact": False, "notes": [*state["notes"], f"from step {step} on, layers are {now}"]}
    return layers


def _environment(precision: str, trainer: TrainerConfig) -> dict[str, Any]:
    import torch

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
        "kernels": trainer.kernels,
    }


def _resume(
    folder: Path,
    trainee: Trainee,
    optimizer: "torch.optim.Optimizer",
    settings: dict[str, Any],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Load the newest checkpoint into `trainee` and `optimizer`; return the state, at step 0 if there is none."""
    found = checkpoint.latest(folder)
    if found is None:
        return {"step": 0, "settings": settings, "environment": environment, "exact": True, "notes": []}
    state = checkpoint.read_state(found)
    require_same(found, state["settings"], settings)
    before = {"processes": "1"} | state["environment"]
    different = {key: value for key, value in environment.items() if before.get(key) != value}
    for key, value in different.items():
        note = f"resumed at step {state['step']} with {key} {value}, begun with {before.get(key)}"
        state = state | {"exact": False, "notes": [*state["notes"], note]}
    trainee.load(found, optimizer)
    return state | {"environment": environment}
