"""The training loop of one ELM: next-token loss on its own data, talking to nobody.

Everything random is a function of (trainer.seed, step), and the batches are too, so the step and the
tensors are the whole state: a run that was killed and resumed gives the same bytes as one that was not,
on the same thread count, torch version and instruction set.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm import checkpoint, durable, lease, ledger, models, optimizers
from btm.config import TrainerConfig
from btm.data.batches import Batches, Windows
from btm.errors import UserError
from btm.mirrors import Mirrors
from btm.report import Progress
from btm.schedule import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# What may change between the parts of one training without changing its result.
_FREE = {"threads", "checkpoint_every", "log_every", "mirrors", "device", "steps", "lr"}
_FREE |= {"gradient_checkpointing", "offload"}  # the same numbers, computed at other times or places


class TrainingFailedError(UserError):
    """The loss or the gradient is no longer finite; the last good checkpoint stands."""


class TrainingStoppedError(Exception):
    """The training was asked to stop, and did so after a checkpoint; the same call goes on from there."""


Report = Callable[[Progress], None]
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

    Resumes from the newest checkpoint in `folder`. `moments` is an optimizer.safetensors to begin with
    (the policy `continue`), which `keep_moments` leaves for others. Raises `TrainingFailedError` where
    the loss stops being finite, `UserError` if the checkpoint belongs to other settings, and
    `TrainingStoppedError`, after a checkpoint, when `pulse` says so.
    """
    trainee = Trainee(models.load_trainable(folder, trainer.device), batches)
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
    """What `loop` trains: a model on the batches of one mix. DEMix and sparse experts override parts of it."""

    model: "PreTrainedModel"
    batches: Batches

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> float:
        """Add the gradient of a step's loss; return the loss in nats per token."""
        return backward(self.model, self.batches.batch(step), trainer, precision)

    def clip(self, bound: float) -> float:
        """Scale the gradients down to a norm of `bound`; return what their norm was."""
        import torch

        return float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), bound))

    def load_moments(self, file: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Begin with the moments of the parent."""
        checkpoint.load_moments(file, self.model, optimizer)

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
        write_model(folder, self.model, dtype)


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

    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    model, stored_dtype = trainee.model, models.stored_dtype(folder)
    if trainer.gradient_checkpointing:
        models.checkpoint_gradients(model)
    optimizer = optimizers.make_optimizer(model, trainer)
    settings = settings_of(trainer, schedule, steps)
    precision = pick_precision(trainer.precision, str(model.device))
    state = _resume(folder, model, optimizer, settings | trainee.settings(), _environment(precision))
    trainee.restore(checkpoint.latest(folder))
    if state["step"] == 0 and moments is not None:
        trainee.load_moments(moments, optimizer)

    if state["step"] < steps:
        durable.require_space(folder, checkpoint.disk_bytes(model))
    metrics = Metrics(folder / "metrics.jsonl", state["step"], steps, trainer, trainee.tokens, report)
    for step in range(state["step"], steps):
        lr = schedule.lr(step)
        torch.manual_seed(trainer.seed * 1_000_003 + step)
        loss = trainee.backward(step, trainer, precision)
        norm = trainee.clip(trainer.clip or math.inf)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            checkpoint.drop(folder, step)
            raise _failed(folder, step + 1, f"loss {loss}, gradient norm {norm}", lr)
        apply(optimizer, lr)
        done = step + 1
        trainee.constrain(optimizer, done)
        nats = None
        if valid is not None and trainer.valid_every and done % trainer.valid_every == 0:
            nats = validate(model, valid)
        metrics.add(done, loss, lr, norm, nats)
        stop = pulse(done)
        if stop or done % trainer.checkpoint_every == 0 or done == steps:
            if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
                raise _failed(folder, done, "parameters that are not finite", lr)
            checkpoint.save(folder, model, optimizer, state | {"step": done}, trainee.state())
        if stop and done < steps:
            metrics.close()
            raise TrainingStoppedError(f"stopped after step {done}")
    metrics.close()
    if keep_moments:
        checkpoint.save_moments(folder / checkpoint.MOMENTS, model, optimizer)
    size = optimizers.state_size(optimizer)
    trainee.write(folder, stored_dtype)
    return {
        "steps": steps,
        "tokens": trainee.tokens(steps),
        "flops": trainee.flops(steps),
        "exact": state["exact"],
        "notes": [
            *state["notes"],
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


def validate(model: "PreTrainedModel", windows: Windows, rows: int = 32) -> float:
    """Return the mean nats per token of `model` on `windows`."""
    import torch

    was_training = model.training
    model.eval()
    total, counted = 0.0, 0
    with torch.inference_mode():
        for start in range(0, windows.n_windows, rows):
            stop = min(start + rows, windows.n_windows)
            inputs, targets = (torch.from_numpy(a(start, stop)) for a in (windows.inputs, windows.targets))
            logp = models.token_logp(model, inputs.to(model.device), targets.to(model.device))
            flat = logp.flatten()[: windows.n_tokens - counted]
            total -= float(flat.double().sum())
            counted += len(flat)
    model.train(was_training)
    return total / windows.n_tokens


def pick_precision(name: str, device: str) -> str:
    """Return fp32 or bf16; `auto` takes bf16 where the hardware multiplies it natively.

    Without such instructions bf16 autocast is emulated: ten times slower than fp32 on an AVX2 CPU.
    """
    import torch

    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device == "cpu" and native else "fp32"


def backward(model: "PreTrainedModel", tokens: Any, trainer: TrainerConfig, precision: str) -> float:
    """Add the gradient of the mean loss on `tokens` (batch, seq_len + 1); return that loss in nats per token."""
    import torch

    batch: Tensor = torch.from_numpy(tokens).to(model.device)
    micro = trainer.micro_batch_size or len(batch)
    loss_sum = 0.0
    for part in batch.split(micro):
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logp = models.token_logp(model, part[:, :-1], part[:, 1:])
        loss = -logp.mean() * (len(part) / len(batch))
        loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum


def apply(optimizer: "torch.optim.Optimizer", lr: float) -> None:
    """Do the optimizer's step with the gradients that stand there, and clear them."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _environment(precision: str) -> dict[str, Any]:
    import torch

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
    }


def _resume(
    folder: Path,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    settings: dict[str, Any],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Load the newest checkpoint into `model` and `optimizer`; return the state, at step 0 if there is none."""
    found = checkpoint.latest(folder)
    if found is None:
        return {"step": 0, "settings": settings, "environment": environment, "exact": True, "notes": []}
    state = checkpoint.read_state(found)
    require_same(found, state["settings"], settings)
    different = {key: value for key, value in environment.items() if state["environment"].get(key) != value}
    for key, value in different.items():
        note = (
            f"resumed at step {state['step']} with {key} {value}, begun with {state['environment'].get(key)}"
        )
        state = state | {"exact": False, "notes": [*state["notes"], note]}
    checkpoint.load(found, model, optimizer)
    return state | {"environment": environment}


def write_model(folder: Path, model: "PreTrainedModel", dtype: str) -> None:
    """Replace the weights in `folder`, file by file, each durably, in the dtype the branch came with."""
    import torch

    scratch = durable.scratch_folder(folder)
    with durable.naming(folder):
        model.to(getattr(torch, dtype)).save_pretrained(scratch, max_shard_size="5GB")
    durable.sync_tree(scratch)
    for file in sorted(scratch.iterdir()):
        file.replace(folder / file.name)
    scratch.rmdir()
    durable.sync_folder(folder)


class Metrics:
    """metrics.jsonl, the mirrors and the live report, every `log_every` steps."""

    def __init__(
        self,
        file: Path,
        step: int,
        steps: int,
        trainer: TrainerConfig,
        tokens: Callable[[int], int],
        report: Report | None,
    ) -> None:
        self.file, self.steps, self.trainer, self.tokens, self.report = file, steps, trainer, tokens, report
        self.begun, self.first = time.monotonic(), step
        self.last_loss: float | None = None
        kept = _lines_up_to(file, step)
        with durable.publish_file(file) as handle:
            handle.writelines(kept)
        if kept:
            self.last_loss = json.loads(kept[-1])["loss"]
        self.mirrors = Mirrors(trainer.mirrors, file.parent)

    def add(self, step: int, loss: float, lr: float, norm: float, valid_nats: float | None) -> None:
        """Note a step; every `log_every`th, the first, the last, and what was validated is told of."""
        self.last_loss = loss
        if step % self.trainer.log_every and step not in (1, self.steps) and valid_nats is None:
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
        """Close the mirrors."""
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
