"""A model in training: gradients of a step, the optimizer's step, loss on valid."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from btm.config.training import TrainerConfig
from btm.data.batches import Batches, Marks
from btm.data.windows import Windows
from btm.models import causal_lm, flops
from btm.system.json_files import Json
from btm.train import checkpoint, losses, optimizers
from btm.train.trajectory import Trajectory

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

    from btm.train import kernels


# Of inputs and targets (rows, tokens): log p of each, or a mean.
OfTargets = Callable[..., "Tensor"]  # of examples also their weights and positions


@dataclass
class Trainee:
    """What `loop` trains: a model on the batches of one mix; DEMix, sparse and distributed training
    override parts.
    """

    model: "PreTrainedModel"
    batches: Batches
    # The average along the way, which becomes the weights; `loop` sets it where it is asked for.
    trajectory: Trajectory | None = field(default=None, init=False)
    may_compile: ClassVar[bool] = True

    leads = True  # of several processes that train together, one writes metrics and weights
    processes = "1"  # how many these are, and what each holds

    @property
    def trained(self) -> "torch.nn.Module":
        """The module whose parameters are trained and kept in checkpoints: the whole model."""
        return self.model

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> "Tensor":
        """Add the gradient of a step's loss; return the loss, nats per token, unread (float64)."""
        batch, marks = self.batches.batch(step), self.batches.marks(step)
        return backward(self.model, batch, trainer, precision, marks=marks)

    def logp(
        self, inputs: "Tensor", targets: "Tensor", positions: "Tensor | None" = None
    ) -> "Tensor":
        """Return log p(target | inputs so far), as `models.token_logp` does."""
        return causal_lm.token_logp(self.model, inputs, targets, positions)

    def norm(self) -> "Tensor":
        """Compute the norm of the gradients that is bounded; it stays on the device, unread."""
        return optimizers.gradient_norm(self.model)

    def finite(self) -> bool:
        """Tell whether all parameters are finite."""
        import torch

        # One answer for all of them: each that is read from a GPU waits for it.
        each = [torch.isfinite(parameter).all() for parameter in self.trained.parameters()]
        return bool(torch.stack(each).all())

    def load_moments(self, file: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Begin with the moments of the parent."""
        checkpoint.load_moments(file, self.trained, optimizer)

    def save_moments(self, file: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Publish the moments, for trainings that continue this one."""
        checkpoint.save_moments(file, self.trained, optimizer)

    def save(
        self,
        writer: checkpoint.Writer,
        folder: Path,
        optimizer: "torch.optim.Optimizer",
        state: Json,
    ) -> None:
        """Publish a checkpoint in `folder`."""
        writer.save(folder, self.trained, optimizer, state, self.state())

    def load(self, found: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Take up parameters and moments of the checkpoint `found`."""
        checkpoint.load(found, self.trained, optimizer)

    def drop(self, folder: Path, step: int) -> None:
        """Delete the checkpoint of `step`, if there is one: its parameters gave a loss that is not
        finite.
        """
        checkpoint.drop(folder, step)

    def tokens(self, steps: int) -> int:
        """Return the tokens of the first `steps` steps."""
        return self.batches.tokens(steps)

    def flops(self, steps: int) -> float:
        """Return the FLOPs of the first `steps` steps."""
        read = self.batches.read(steps)
        return read * flops.Shape.of(self.model).training_flops(self.batches.seq_len)

    def settings(self) -> Json:
        """Return the facts that a resumed training shares with its first part, beside the
        trainer's settings.
        """
        growth = self.batches.growth
        data: Json = {"data": {shard.domain: shard.sha256[:16] for shard in self.batches.shards}}
        begun = {shard.bos for shard in self.batches.shards} - {None}
        if self.batches.has_examples:
            data["packed"] = self.batches.packed
        if begun:  # an older btm trained on windows without
            data["windows begin with"] = sorted(begun)
        data["sampling"] = self.batches.sampling  # None, too: a part before may have had another
        return data if growth.factor == 1 else data | {"growth": asdict(growth)}

    def constrain(self, optimizer: "torch.optim.Optimizer", done: int) -> None:
        """Hold the parameters to what they may be, after step `done`."""

    def state(self) -> "dict[str, Tensor]":
        """Return the tensors that a checkpoint keeps beside parameters and moments."""
        return self.trajectory.state() if self.trajectory else {}

    def restore(self, found: Path | None) -> None:
        """Take up the `state` of a checkpoint whose parameters stand in the model; None: begin."""
        if found is not None and self.trajectory:
            self.trajectory.restore(found)

    def write(self, folder: Path, dtype: str) -> None:
        """Replace the weights in `folder` by the trained ones, stored as `dtype`."""
        causal_lm.write(folder, self.model, dtype)


def validate(
    model: "PreTrainedModel",
    windows: Windows,
    logp_of: OfTargets | None = None,
    rows: int = 32,
    alive: Callable[[], object] = lambda: None,
) -> float:
    """Return the mean nats per token of `model` on `windows`; `logp_of` is what wraps it, if
    anything does. `alive` is called after each batch of `rows` windows.
    """
    import torch

    was_training = model.training
    model.eval()
    nats: list[Tensor] = []  # of each batch, unread until the last
    with torch.inference_mode():
        for start in range(0, windows.n_windows, rows):
            stop = min(start + rows, windows.n_windows)
            inputs, targets = (
                on_device(a(start, stop), model.device) for a in (windows.inputs, windows.targets)
            )
            logp = (logp_of or partial(causal_lm.token_logp, model))(inputs, targets)
            if (uncounted := windows.uncounted(start, stop)) is not None:
                logp = logp.masked_fill(on_device(uncounted, model.device), 0.0)
            flat = logp.flatten()[: windows.kept(logp.numel(), start)]
            nats.append(losses.exact(flat).sum())
            alive()
    model.train(was_training)
    return -sum(torch.stack(nats).tolist()) / windows.n_predicted


def on_device(array: "NDArray[Any]", device: "torch.device") -> "Tensor":
    """Copy token ids, or what belongs to them, to the device a model is on.

    To a GPU they go from pinned memory, so the copy neither waits for the GPU nor is waited for.
    """
    import torch

    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def backward(
    model: "PreTrainedModel",
    tokens: "NDArray[np.int64]",
    trainer: TrainerConfig,
    precision: str,
    nll: OfTargets | None = None,
    before: Callable[[bool], None] = lambda is_last: None,
    marks: Marks | None = None,
) -> "Tensor":
    """Add the gradient of the mean loss on `tokens` (batch, seq_len + 1); return that loss, nats
    per token, as a float64 that is still on the device.

    `nll` is what wraps the model, if anything does; `before` is called ahead of each micro-batch.
    With `marks` the loss is the sum that these weigh.
    """
    import torch

    from btm.train import kernels

    nll = nll or partial(kernels.loss.chosen(trainer.kernels), model)
    batch = on_device(tokens, model.device)
    micro = trainer.micro_batch_size or len(batch)
    each: list[Tensor] = []
    parts = batch.split(micro)
    each_marks = _marks_of(marks, micro, len(parts), model.device)
    for number, (part, marked) in enumerate(zip(parts, each_marks, strict=True), 1):
        before(number == len(parts))
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = nll(part[:, :-1], part[:, 1:], *marked)
            if marks is None:
                loss = loss * (len(part) / len(batch))
        loss.backward()
        each.append(losses.exact(loss.detach()))
    total = each[0]
    for more in each[1:]:  # one after the other: the order of a sum is in its last bits
        total = total + more
    return total


def _marks_of(
    marks: Marks | None, rows: int, parts: int, device: "torch.device"
) -> "list[tuple[Tensor | None, ...]]":
    """Cut the weights and positions of a batch into its micro-batches of `rows` rows."""
    if marks is None:
        return [()] * parts
    weights = on_device(marks.weights, device).split(rows)
    if marks.positions is None:
        return [(weight,) for weight in weights]
    positions = on_device(marks.positions, device).split(rows)
    return list(zip(weights, positions, strict=True))


def apply(optimizer: "torch.optim.Optimizer", lr: float, divisor: "Tensor | None" = None) -> None:
    """Do the optimizer's step with the gradients that stand there, divided by `divisor`, and clear
    them.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizers.step(optimizer, divisor)
    optimizer.zero_grad(set_to_none=True)


def compiled_layers(
    trainee: Trainee, trainer: TrainerConfig, precision: str, state: Json, steps: int
) -> "kernels.compiled.Layers":
    """Return the layers of a training that goes on from `state`, compiled or not as that says."""
    from btm.train import kernels

    step, decided = state["step"], state.get("compiled")
    how = trainer.compile if trainee.may_compile and not trainer.gradient_checkpointing else "never"
    layers = kernels.compiled.Layers(
        trainee.model,
        how,
        steps - step,
        decided,
        lambda: trainee.backward(step, trainer, precision),
    )
    if decided is not None and layers.state != decided:
        now = "compiled" if layers.state else "not compiled"
        state |= {
            "exact": False,
            "notes": [*state["notes"], f"from step {step} on, layers are {now}"],
        }
    return layers
