"""Training of a student: it is drawn to a teacher's distributions beside the text itself.

The loss is weight · T² · KL(teacher ‖ student at temperature T) + (1 - weight) · -log p(text)
(Hinton, Vinyals and Dean, arXiv 1503.02531). The teacher's distribution is known as its k likeliest
tokens and the rest, so both are looked at as distributions over these k + 1 outcomes; for them the
divergence is exact, and for k = V it is the usual one.

N tokens, V of the vocabulary, k of them kept.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from btm.config.training import TrainerConfig
from btm.models import causal_lm
from btm.system.json_files import Json
from btm.train.trainee import Trainee, backward, on_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of a step: (B, L) of btm/ensemble/targets.py, with the fields ids, logp and rest
Taught = Callable[[int], "NDArray[np.void]"]


@dataclass(frozen=True)
class Objective:
    """How much the teacher counts beside the text, and how warm both are compared."""

    weight: float
    temperature: float


def divergence(
    logits: "Tensor", ids: "Tensor", logp: "Tensor", rest: "Tensor", temperature: float = 1.0
) -> "Tensor":
    """Compute T² · KL(teacher ‖ student), the mean over tokens, in nats.

    logits (N, V) of the student; ids and logp (N, k) of the teacher, `rest` (N) the log of what it
    gives to all other tokens. A temperature T takes both distributions over these k + 1 outcomes to
    the power 1/T: what a warmer teacher would give to single tokens of the rest nobody kept.
    """
    import torch

    wide = logits.float()
    log_sum = torch.logsumexp(wide, -1, keepdim=True)
    student = wide.gather(-1, ids) - log_sum
    teacher = logp
    if ids.shape[-1] < wide.shape[-1]:  # else there is no rest, and its log would be -inf
        others = wide.scatter(-1, ids, float("-inf"))
        student = torch.cat([student, torch.logsumexp(others, -1, keepdim=True) - log_sum], -1)
        teacher = torch.cat([logp, rest[:, None]], -1)
    student = torch.log_softmax(student / temperature, -1)
    teacher = torch.log_softmax(teacher / temperature, -1)
    each = (teacher.exp() * (teacher - student)).sum(-1)
    return temperature**2 * each.mean()


@dataclass
class Student(Trainee):
    """A model that learns from `taught` and from the text of its batches."""

    taught: Taught
    objective: Objective

    may_compile: ClassVar[bool] = True

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> "Tensor":
        """Add the gradient of the mixed loss of a step; return it, unread (float64)."""
        tokens, share = self.batches.batch(step), self.objective.weight
        if share == 0:
            return backward(self.model, tokens, trainer, precision)
        import torch
        import torch.nn.functional as F  # noqa: N812

        taught = self.taught(step)
        fields = [
            on_device(np.ascontiguousarray(taught["ids"]).astype(np.int64), self.model.device),
            *(self._on_device(taught[name]) for name in ("logp", "rest")),
        ]
        seen = 0  # rows of the batch that earlier micro-batches had

        def loss(inputs: "Tensor", targets: "Tensor") -> "Tensor":
            nonlocal seen
            rows = slice(seen, seen + len(inputs))
            seen += len(inputs)
            found = causal_lm.logits_of(self.model(input_ids=inputs, use_cache=False))
            with torch.autocast(found.device.type, enabled=False):  # sums over V in float32
                flat = found.flatten(0, 1).float()
                ids, logp, rest = (field[rows].flatten(0, 1) for field in fields)
                soft = divergence(flat, ids, logp, rest, self.objective.temperature)
                hard = F.cross_entropy(flat, targets.flatten())
                return share * soft + (1 - share) * hard

        return backward(self.model, tokens, trainer, precision, loss)

    def settings(self) -> Json:
        """Add what is mixed to what the parts of one training must have in common."""
        return super().settings() | {"distil": asdict(self.objective)}

    def _on_device(self, values: "NDArray[np.float32]") -> "torch.Tensor":
        import torch

        return torch.from_numpy(np.array(values)).to(self.model.device)
