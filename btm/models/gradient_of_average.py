"""The gradient of a loss with respect to the weights of a linear average, in the memory of two
models.

For θ_t = Σ_j w_gj θ_jt (tensor t of group g), ∂L/∂w_gj = Σ_{t in g} ⟨∂L/∂θ_t, θ_jt⟩. So one
backward pass of the averaged model gives the gradient of all weights: the models themselves are
read from disk a tensor at a time, once to be averaged and once for the inner products. Holding all
of them, as automatic differentiation through the sum would, costs a model for each.

Legend of suffixes: G groups of tensors, E models.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models import weights as wt
from btm.models.average.models import require_same_tensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Matrix = NDArray[np.float64]


class AverageWithGradient:
    """Linear averages of the models in `folders`, put into one model that is in memory."""

    def __init__(
        self, folders: Sequence[Path], patterns: Sequence[str], model: "PreTrainedModel"
    ) -> None:
        """Find every tensor of `model` in the folders; group 0 has those that no pattern matches.

        Raises `UserError` if the folders differ in tensors, a pattern matches none, or the files
        call them otherwise than the model does.
        """
        for other in folders[1:]:
            require_same_tensors(folders[0], other)
        self._tables = [wt.tensors(folder) for folder in folders]
        held = model.state_dict(keep_vars=True)
        floats = [tensor.name for tensor in self._tables[0].values() if tensor.is_float]
        if unknown := [name for name in floats if name not in held]:
            raise UserError(
                f"{folders[0]}: its tensor {unknown[0]!r} has another name in memory, so a search "
                "cannot tell its gradient: leave out average.search"
            )
        self._held: dict[str, torch.Tensor] = {name: held[name] for name in floats}
        self._group = groups_of(floats, patterns)
        self.sizes_G = np.zeros(len(patterns) + 1)
        for name, group in self._group.items():
            self.sizes_G[group] += self._held[name].numel()

    def place(self, weights_GE: Matrix) -> None:
        """Put the average of these weights into the model, and clear its gradients."""
        import torch

        with torch.no_grad():
            for name, tensor in self._held.items():
                mean = torch.zeros(tensor.shape)
                for j, weight in enumerate(weights_GE[self._group[name]]):
                    mean.add_(self._read(j, name), alpha=float(weight))
                tensor.copy_(mean)
                tensor.grad = None

    def gradient(self) -> Matrix:
        """Compute ∂L/∂w, (G, E), of the gradients that a backward pass left in the model."""
        found_GE = np.zeros((len(self.sizes_G), len(self._tables)))
        for name, tensor in self._held.items():
            if tensor.grad is None:
                continue
            own = tensor.grad.detach().float().cpu().flatten()
            for j in range(len(self._tables)):
                found_GE[self._group[name], j] += float(own @ self._read(j, name).flatten())
        return found_GE

    def _read(self, j: int, name: str) -> "torch.Tensor":
        """Read one tensor of model `j`, in float32."""
        import torch

        tensor = self._tables[j][name]
        raw = tensor.raw()
        out = np.empty(raw.shape, np.float32)
        wt.widen(raw, tensor.dtype, out)
        return torch.from_numpy(out).view(tensor.shape)


def groups_of(names: Sequence[str], patterns: Sequence[str]) -> dict[str, int]:
    """Number the group of each tensor: that of the last pattern that matches, from 1 on; else 0.

    Raises `UserError` for a pattern that matches no tensor.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"average.groups: no tensor is called {pattern!r}; there are "
                f"{', '.join(list(names)[:3])}, …"
            )
    return {
        name: max((i + 1 for i, p in enumerate(patterns) if fnmatchcase(name, p)), default=0)
        for name in names
    }
