"""The losses of a training that are still on the device, and what is done once they are read.

To read a number from a GPU is to wait until it has done all it was given; a loop that does so
every step leaves the GPU idle while Python prepares the next one. So losses stay there for some
steps. What must not happen is that a checkpoint is published after a loss that was not finite:
`Losses.read` is called before each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ON_A_GPU = 16  # steps: at some ten milliseconds each, a NaN is seen in a fraction of a second


@dataclass(frozen=True)
class Step:
    """What is known of a step once its loss was read: nats per token, and the gradient's norm."""

    done: int  # steps, this one included
    lr: float
    loss: float
    norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the parameters may be trusted with this step."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Losses:
    """The losses of up to `most` steps, read together; `check` sees each in order and may raise."""

    def __init__(self, most: int, check: Callable[[Step], None] = lambda step: None) -> None:
        self.most, self.check = most, check
        self._unread: list[tuple[int, float, Tensor, Tensor]] = []
        self._read: list[Step] = []

    def add(self, done: int, lr: float, loss: "Tensor", norm: "Tensor") -> None:
        """Keep the numbers of a step; read all that are kept once they are `most`."""
        self._unread.append((done, lr, loss.detach(), norm.detach()))
        if len(self._unread) >= self.most:
            self.read()

    def read(self) -> None:
        """Wait for the device, and have each step checked."""
        import torch

        if not self._unread:
            return
        kept, self._unread = self._unread, []
        # float64 holds both exactly. One transfer, however many they are.
        numbers = torch.stack([exact(number) for row in kept for number in row[2:]]).tolist()
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        for (done, lr, _, _), (loss, norm) in zip(kept, pairs, strict=True):
            step = Step(done, lr, loss, norm)
            self.check(step)
            self._read.append(step)

    def taken(self) -> list[Step]:
        """Return the steps that were read since the last call, in order."""
        found, self._read = self._read, []
        return found


def most_unread(device: "torch.device", wanted: int | None = None) -> int:
    """Return for how many steps losses may stay on the `device`: 1 on a CPU, which has them."""
    return wanted or (1 if device.type == "cpu" else ON_A_GPU)


def exact(number: "Tensor") -> "Tensor":
    """Return a tensor in float64; Apple's GPUs have none, so theirs comes to the host's memory."""
    return number.cpu().double() if number.device.type == "mps" else number.double()
