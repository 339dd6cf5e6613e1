"""The average of a model's own parameters along its training: better than its last parameters, and
it costs nothing at inference.

Two ways, each a running mean that takes up one more point θ_n by θ̄ ← θ̄ + w_n (θ_n - θ̄):

- the last k of points that are `trainer.average_every` steps apart, the last step among them,
  w_n = 1/n (latest weight averaging, arXiv 2209.14981);
- an exponential moving average of every step, w_n = (1-β) / (1-β^n), which is the mean of all
  points so far weighted by β^age, whatever their number (no first point counts for more).

So one copy of the parameters is kept, however large k is. It is in every checkpoint, and a resumed
training has the bytes of an unbroken one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from btm.config.training import TrainerConfig
from btm.train import checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_AUTO = 100  # points a training has, where trainer.average_every=0
_PREFIX = "average."
_COUNT = "averaged"


@dataclass
class Trajectory:
    """The running mean of the parameters of `model` in a training of `steps` steps."""

    model: "torch.nn.Module"
    trainer: TrainerConfig
    steps: int
    points: int = 0  # that are in the mean
    mean: "dict[str, Tensor]" = field(default_factory=dict)  # by parameter, in its own type

    @property
    def every(self) -> int:
        """Steps from one point to the next."""
        if self.trainer.average_decay:
            return 1
        return self.trainer.average_every or max(1, self.steps // _AUTO)

    def _is_point(self, done: int) -> bool:
        """Tell whether the parameters after step `done` are a point of the mean."""
        left = self.steps - done
        if self.trainer.average_decay:
            return True
        return left % self.every == 0 and left // self.every < self.trainer.average_last

    def add(self, done: int) -> None:
        """Take up the parameters after step `done`, if they are a point of the mean."""
        import torch

        if not self._is_point(done):
            return
        self.points += 1
        now = checkpoint.parameters(self.model)
        if self.points == 1:
            self.mean = {name: parameter.clone() for name, parameter in now.items()}
            return
        beta = self.trainer.average_decay
        share = (1 - beta) / (1 - beta**self.points) if beta else 1 / self.points
        torch._foreach_lerp_(list(self.mean.values()), [now[name] for name in self.mean], share)

    def settle(self) -> None:
        """Put the mean in the place of the model's parameters."""
        for name, parameter in checkpoint.parameters(self.model).items():
            parameter.copy_(self.mean[name])

    def state(self) -> "dict[str, Tensor]":
        """Collect what a checkpoint must keep of the mean."""
        import torch

        kept = {_PREFIX + name: tensor for name, tensor in self.mean.items()}
        return kept | {_COUNT: torch.tensor(self.points)}

    def restore(self, found: Path) -> None:
        """Take up the mean from a checkpoint; `UserError` if it is damaged."""
        self.mean = {}
        stored = checkpoint.load_own(found)
        if _COUNT not in stored:
            raise checkpoint.damaged(found, "no number of points of its average")
        self.points = int(stored[_COUNT])
        if not self.points:
            return
        for name, parameter in checkpoint.parameters(self.model).items():
            tensor = stored.get(_PREFIX + name)
            if tensor is None or tensor.shape != parameter.shape:
                raise checkpoint.damaged(found, f"no average of {name!r}")
            self.mean[name] = tensor.to(parameter.device, parameter.dtype)

    @property
    def said(self) -> str:
        """Say for the card what the weights are the average of."""
        if beta := self.trainer.average_decay:
            return f"an exponential moving average of its own training, β = {beta:g}"
        apart = f"{self.every} step{'s' if self.every > 1 else ''} apart"
        return f"the average of the last {self.points} points of its own training, {apart}"


def of(model: "torch.nn.Module", trainer: TrainerConfig, steps: int) -> Trajectory | None:
    """Make the mean that `trainer` asks for; None where it asks for none."""
    asked = trainer.average_last or trainer.average_decay
    return Trajectory(model, trainer, steps) if asked and steps else None
