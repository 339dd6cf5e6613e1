"""What differs in a training of several processes: each has its rows of every batch; loss and
gradient are means.

A batch is a function of (seed, step) in every process, so nothing is sent but gradients, and the
sum over processes is the one that a process alone would take, but for the order of its terms.
`Replica` is DDP (every process has the whole model, arXiv 2006.15704), `Share` is FSDP2 (each has a
share of every tensor, arXiv 2304.11277).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from btm.config.training import TrainerConfig
from btm.models import causal_lm
from btm.system import durable
from btm.system.json_files import Json
from btm.train import checkpoint, kernels, trainee
from btm.train.distributed import checkpoint as sharded

_WARM_UP = 8  # tokens


class _Loss(nn.Module):
    """A model whose forward pass ends with what is asked of it: what is wrapped is then all that a
    step does.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, of: Callable[..., Tensor], inputs: Tensor, targets: Tensor, *marks: Tensor | None
    ) -> Tensor:
        return of(self.model, inputs, targets, *marks)


@dataclass
class Replica(trainee.Trainee):
    """A whole model on the rows of one of `size` processes."""

    rank: int
    size: int
    device: str
    whole: Any = field(init=False)

    may_compile: ClassVar[bool] = False
    has_head: ClassVar[bool] = True  # whole: the loss without logits reads its weights itself
    loaded_on: ClassVar[str | None] = None  # null: its device
    name: ClassVar[str] = "ddp"

    def __post_init__(self) -> None:
        """Wrap the model."""
        self.leads = self.rank == 0
        self.processes = f"{self.size} ({self.name})"
        self.wrap()

    def wrap(self) -> None:
        """Let DDP sum the gradients.

        It finds the order of its buckets in the first backward pass, and the order of a sum is in
        its last bits: so that a resumed run has the order of an unbroken one, there is a pass
        before the first step.
        """
        self.whole = nn.parallel.DistributedDataParallel(_Loss(self.model))
        tokens = torch.zeros((1, _WARM_UP + 1), dtype=torch.int64, device=self.model.device)
        self.whole(causal_lm.mean_nll, tokens[:, :-1], tokens[:, 1:]).backward()
        self.model.zero_grad(set_to_none=True)

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> Tensor:
        """Add the gradient of a step's loss, summed over processes; return the loss of all its
        rows.

        Micro-batches are of the rows of one process. What dropout draws differs from process to
        process.
        """
        torch.manual_seed(torch.initial_seed() + (self.rank << 56))
        tokens = self.batches.batch(step)
        rows = tokens.reshape(self.size, -1, tokens.shape[-1])[self.rank]
        nll = partial(self.whole, kernels.loss.chosen(trainer.kernels and self.has_head))
        marks = self.batches.marks(step)
        if marks is not None:
            marks = marks.share(self.rank, self.size)
        loss = trainee.backward(
            self.model, rows, trainer, precision, nll, self.sum_gradients, marks
        )
        dist.all_reduce(loss)  # where it is: on GPUs nobody waits for it
        return loss / self.size

    def sum_gradients(self, now: bool) -> None:
        """Say whether the next backward pass sums gradients over processes, or adds to what is
        here.
        """
        self.whole.require_backward_grad_sync = now

    def finite(self) -> bool:
        """Tell whether all parameters are finite, in all processes."""
        here = (getattr(p, "_local_tensor", p) for p in self.model.parameters())
        return not any_of(not bool(torch.stack([torch.isfinite(p).all() for p in here]).all()))

    def save(
        self,
        writer: checkpoint.Writer,
        folder: Path,
        optimizer: torch.optim.Optimizer,
        state: Json,
    ) -> None:
        """Publish a checkpoint that all processes write: the first makes and publishes its
        folder.
        """
        target = checkpoint.place(folder, state["step"])
        if self.leads and not target.exists():
            with durable.publish_folder(target) as scratch:
                self._write(scratch, optimizer)
                checkpoint.write_state(scratch, state)
        else:
            self._write(None, optimizer)
        if self.leads:
            checkpoint.prune(folder)
        wait_for_all()

    def _write(self, scratch: Path | None, optimizer: torch.optim.Optimizer) -> None:
        """Write our share into the `scratch` folder that the first process has; without one, nobody
        writes.
        """
        told = [scratch]
        dist.broadcast_object_list(told, device=torch.device("cpu"))
        if told[0] is not None:
            tensors = checkpoint.parameters(self.model) | checkpoint.moments(self.model, optimizer)
            sharded.write(told[0], tensors)

    def load(self, found: Path, optimizer: torch.optim.Optimizer) -> None:
        """Take up our share of the checkpoint `found`, of however many processes it is."""
        checkpoint.load_share(found, self.model, optimizer)

    def drop(self, folder: Path, step: int) -> None:
        """Delete the checkpoint of `step`, if there is one."""
        if self.leads:
            checkpoint.drop(folder, step)
        wait_for_all()

    def save_moments(self, file: Path, optimizer: torch.optim.Optimizer) -> None:
        """Publish the moments, as a process alone would."""
        tensors = _gathered(checkpoint.moments(self.model, optimizer), self.leads)
        if self.leads:
            checkpoint.write_moments(file, tensors)

    def write(self, folder: Path, dtype: str) -> None:
        """Replace the weights in `folder`, as a process alone would."""
        tensors = _gathered(checkpoint.parameters(self.model), self.leads)
        if self.leads:
            model = causal_lm.load_model(folder, dtype=torch.float32)
            for name, parameter in checkpoint.parameters(model).items():
                parameter.copy_(tensors[name])
            causal_lm.write(folder, model, dtype)
        wait_for_all()


@dataclass
class Share(Replica):
    """A share of the model, whose layers are put together while they are needed."""

    has_head: ClassVar[bool] = False
    loaded_on: ClassVar[str | None] = "cpu"  # it is moved and shared out layer by layer
    name: ClassVar[str] = "fsdp"

    def wrap(self) -> None:
        """Share out every layer, and what is left as one more."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        for layer in causal_lm.decoder_layers(self.model):
            fully_shard(layer, mesh=mesh)
        self.whole = fully_shard(_Loss(self.model), mesh=mesh)

    def logp(self, inputs: Tensor, targets: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return log p(target | inputs so far) of these rows, outside of training."""
        found = self.whole(causal_lm.token_logp, inputs, targets, positions)
        self.whole.reshard()  # else a backward pass does that, and there is none
        return found

    def sum_gradients(self, now: bool) -> None:
        """Say whether the next backward pass sums gradients over processes, or adds to what is
        here.
        """
        self.whole.set_requires_gradient_sync(now)

    def norm(self) -> Tensor:
        """Compute the norm of the gradients, over all shares; it stays on the device, unread."""
        found: Any = nn.utils.get_total_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        )
        return found.full_tensor()

    def load_moments(self, file: Path, optimizer: torch.optim.Optimizer) -> None:
        """Begin with our share of the moments of the parent."""
        remedy = "trainer.carry=fresh does without it"
        checkpoint.load_share(file.parent, self.model, optimizer, moments_alone=True, remedy=remedy)


KINDS: dict[str, type[Replica]] = {kind.name: kind for kind in (Replica, Share)}


def wait_for_all() -> None:
    """Return when every process has called this; through the host's memory, whatever device they
    train on.
    """
    _sum(0.0)


def any_of(flag: bool) -> bool:
    """Tell whether `flag` is true in any process; every process calls this."""
    return _sum(float(flag)) > 0


def _sum(number: float) -> float:
    """Return the sum of a number over processes."""
    total = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def _gathered(tensors: dict[str, Tensor], here: bool) -> dict[str, Tensor]:
    """Return whole tensors in the host's memory, where they are wanted `here`; every process calls
    this.
    """
    made = {}
    for name, tensor in tensors.items():
        full: Any = tensor
        whole = full.full_tensor() if hasattr(full, "full_tensor") else full
        if here:
            made[name] = whole.detach().cpu()
    return made
