"""Models that share the tensors of one base, each with its own changes of low rank.

The linear layers that change compute W_0 x + s · B (A x); all else is the base's own parameters. So
k such models take the memory of the base and k adapters, and their logits are those of the summed
weights up to rounding.
"""

import copy
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from btm.models.low_rank import LowRank

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Adapted(nn.Module):
    """A linear layer of a base, and the factors that are its change."""

    def __init__(self, linear: nn.Module, change: LowRank) -> None:
        """Take `linear` as it is; the scale goes into B."""
        super().__init__()
        self.linear: Any = linear
        self.transposed = change.transposed
        like: Any = self.linear.weight
        b = torch.from_numpy(change.b).double() * change.scale
        self.a = nn.Parameter(torch.from_numpy(change.a).to(like), requires_grad=False)
        self.b = nn.Parameter(b.to(like), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the base's output and the change of it."""
        out: Tensor = self.linear(x)
        return out + nn.functional.linear(nn.functional.linear(x, self.a), self.b)

    @property
    def weight(self) -> Tensor:
        """The summed matrix, for code that asks a layer for it instead of calling it."""
        product = self.b @ self.a
        summed: Tensor = self.linear.weight + (product.t() if self.transposed else product)
        return summed

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        found: Tensor | None = self.linear.bias
        return found


def sharing(base: "PreTrainedModel", changes: Mapping[str, LowRank]) -> "PreTrainedModel":
    """Make a model of the parameters and buffers of `base` themselves, but for the layers that
    `changes` names, which are those of `base` and a change.

    The base lives as long as the model does. Neither may be moved or cast.
    """
    tensors = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
    model = copy.deepcopy(base, dict(tensors))
    for change in changes.values():
        linear = model.get_submodule(change.module)
        model.set_submodule(change.module, Adapted(linear, change))
    model.__dict__["shares_tensors_of"] = base  # not as a module of its own, which it is not
    return model
