"""Training of a sparse expert: it differs from the average of its parents in a fixed number of
entries, at every step.

With δ = θ − θ_branch and a mask m the step of the optimizer is followed by θ = θ_branch + δ∘m;
moments go on accumulating where m is 0, and that is where `masks` looks for what to regrow.
Matrices and embeddings are masked. Vectors (gains of norms, biases) may change everywhere, and
count in the budget.

In the end δ is rounded to float16 and θ made of that, so the ELM is exactly what its delta
(`btm.forest.delta`) says.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.training import TrainerConfig
from btm.errors import UserError
from btm.forest import delta
from btm.forest.card import read_parents
from btm.forest.paths import ModelFolder
from btm.models import causal_lm, weights
from btm.system import durable, lease
from btm.system.json_files import Json, read_object
from btm.train import checkpoint, loop
from btm.train.sparse import masks as momentum
from btm.train.trainee import Trainee
from btm.train.training import Trained, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_AUTO = 100  # prunings of a training, where trainer.delta_every=0


def train(training: Training) -> Trained:
    """Train a branch as `btm.train.loop.train` does, with a sparse difference from its parents.

    The result says in addition `delta`: density, budget, changes that are not 0, bytes of the
    file. Raises `UserError` too if the budget of trainer.delta_density is too small for the model.
    """
    model = causal_lm.load_trainable(training.folder, training.trainer.device)
    trainee = SparseTrainee(
        model, training.batches, training.folder, training.trainer, training.steps
    )
    return replace(loop.loop(training, trainee), delta=trainee.said)


@dataclass
class SparseTrainee(Trainee):
    """A model whose matrices differ from `origin` only where `masks` allow it; both are by
    parameter.
    """

    folder: Path
    trainer: TrainerConfig
    steps: int
    origin: "dict[str, Tensor]" = field(init=False)
    masks: "dict[str, Tensor]" = field(init=False)
    stored: dict[str, str] = field(init=False)  # what a parameter is called in the weight files
    said: Json = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Take the parameters for the branch point, and draw the mask."""
        own = checkpoint.parameters(self.model)
        self.stored = _stored_names(self.folder, own)
        self.origin = {name: parameter.clone() for name, parameter in own.items()}
        shapes = {name: parameter.shape for name, parameter in own.items() if parameter.ndim >= 2}
        drawn = momentum.begin(shapes, self._free(shapes), self.trainer.seed)
        self.masks = {name: mask.to(self.model.device) for name, mask in drawn.items()}

    @property
    def budget(self) -> int:
        """The entries that may differ, of matrices and vectors together."""
        return round(self.trainer.delta_density * sum(p.numel() for p in self.model.parameters()))

    def _free(self, shapes: "dict[str, torch.Size]") -> int:
        """Return the budget that vectors leave to the matrices."""
        left = self.budget - sum(p.numel() for p in self.model.parameters() if p.ndim < 2)
        most = sum(shape.numel() for shape in shapes.values())
        if left < len(shapes):
            raise UserError(
                f"trainer.delta_density={self.trainer.delta_density}: {self.budget:,} parameters, "
                "fewer than "
                f"the vectors and one of each matrix need ({self.budget - left + len(shapes):,}): "
                "give a larger one"
            )
        return min(left, most)

    def constrain(self, optimizer: "torch.optim.Optimizer", done: int) -> None:
        """Move the mask if it is time, and put all that it leaves out back to the branch point."""
        import torch

        own = checkpoint.parameters(self.model)
        every = self.trainer.delta_every or max(1, self.steps // _AUTO)
        if self.trainer.delta_mask != "random" and done % every == 0 and done < self.steps:
            with torch.no_grad():
                self._move(own, optimizer, done)
        for name, mask in self.masks.items():
            torch.where(mask, own[name], self.origin[name], out=own[name])

    def _move(
        self, own: "dict[str, Tensor]", optimizer: "torch.optim.Optimizer", done: int
    ) -> None:
        """Prune and regrow."""
        measure = momentum.MEASURES[self.trainer.delta_mask]
        state = {
            name: optimizer.state[p]
            for name, p in self.model.named_parameters()
            if name in self.masks
        }
        momenta = {name: measure(state[name], own[name]) for name in self.masks}
        changes = {name: own[name] - self.origin[name] for name in self.masks}
        pruned = momentum.rate(self.trainer.delta_prune, done / self.steps)
        momentum.move(self.masks, changes, momenta, pruned)

    def state(self) -> "dict[str, Tensor]":
        """Return where the mask is, and what stood there at the branch point: all else is the
        branch point.
        """
        kept: dict[str, Tensor] = {}
        for name, origin in self.origin.items():
            at = self._mask(name).flatten().nonzero().squeeze(1)
            kept |= {f"index.{name}": at, f"origin.{name}": origin.flatten()[at]}
        return kept

    def restore(self, found: Path | None) -> None:
        """Take up mask and branch point from a checkpoint: the folder's weights may be the trained
        ones by now.
        """
        if found is None:
            if (self.folder / delta.FILE).exists():
                raise UserError(
                    f"{lease.name_of(self.folder)!r} was trained, but its checkpoint is gone: "
                    "delete the branch and branch again"
                )
            return
        import torch

        stored = checkpoint.load_own(found)
        for name, parameter in checkpoint.parameters(self.model).items():
            try:
                at, before = stored[f"index.{name}"], stored[f"origin.{name}"]
                mask = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
                mask[at.to(mask.device)] = True
                self.origin[name] = parameter.clone()
                self.origin[name].view(-1)[mask] = before.to(mask.device)
            except (KeyError, IndexError, RuntimeError):
                raise checkpoint.damaged(found, f"no mask of {name!r}") from None
            if name in self.masks:
                self.masks[name] = mask.view_as(parameter)

    def _mask(self, name: str) -> "Tensor":
        """Return where a parameter may differ: everywhere, if it is a vector."""
        import torch

        found = self.masks.get(name)
        return torch.ones_like(self.origin[name], dtype=torch.bool) if found is None else found

    def entries(self) -> dict[str, delta.Entries]:
        """Return the changes by stored tensor, as they are stored: those that are 0 in float16 are
        left out.
        """
        import numpy as np

        made = {}
        for name, parameter in checkpoint.parameters(self.model).items():
            change = (parameter - self.origin[name]).flatten().half().cpu().numpy()
            if not np.isfinite(change).all():
                raise UserError(
                    f"a change of {name!r} is larger than float16 holds: lower trainer.lr"
                )
            (at,) = change.nonzero()
            made[self.stored[name]] = (at, change[at])
        return made

    def write(self, folder: Path, dtype: str) -> None:
        """Publish the delta, then replace the weights by the branch point and the delta added to
        it.
        """
        changes = self.entries()
        parameter = {stored: name for name, stored in self.stored.items()}

        def trained(tensor: weights.Tensor) -> Any:
            if tensor.name not in changes:
                return None
            before = self.origin[parameter[tensor.name]].flatten().cpu().numpy()
            return delta.add(before.copy(), changes[tensor.name])

        origin = read_object(ModelFolder(folder).origin, parents=dict)
        parents = read_parents(ModelFolder(folder).origin, origin["parents"])
        scratch = durable.scratch_folder(folder)
        delta.rewrite(folder, scratch, trained)
        made = delta.Delta(
            parents, weights.sha256(scratch), self.trainer.delta_density, self.budget, changes
        )
        delta.write(folder / delta.FILE, made)
        for file in sorted(scratch.iterdir()):
            file.replace(folder / file.name)
        scratch.rmdir()
        durable.sync_folder(folder)
        self.said = {
            "density": made.density,
            "budget": made.budget,
            "nonzeros": made.nonzeros,
            "mask": self.trainer.delta_mask,
            "bytes": (folder / delta.FILE).stat().st_size,
        }


def _stored_names(folder: Path, own: "dict[str, Tensor]") -> dict[str, str]:
    """Return {parameter: tensor of the weight files in `folder`}, from which the parameters were
    loaded.

    Some architectures rename a tensor as they load it; then it is the one left over that has the
    same values.
    """
    stored = {name: t for name, t in weights.tensors(folder).items() if t.dtype in delta.STORABLE}
    names = {name: name for name in own if name in stored}
    left = [tensor for name, tensor in stored.items() if name not in names]
    for name in own.keys() - names.keys():
        same = [tensor.name for tensor in left if _equal(tensor, own[name])]
        if len(same) != 1:
            raise UserError(
                f"trainer.delta_density: parameter {name!r} is none of the tensors in {folder}, "
                "so this architecture "
                "can only be trained densely (trainer.delta_density=1)"
            )
        names[name] = same[0]
    return names


def _equal(tensor: weights.Tensor, parameter: "Tensor") -> bool:
    """Tell whether a stored tensor holds the values of a float32 parameter."""
    import numpy as np

    if tensor.shape != tuple(parameter.shape):
        return False
    values = np.empty(parameter.numel(), np.float32)
    weights.widen(tensor.raw(), tensor.dtype, values)
    return np.array_equal(values, parameter.flatten().cpu().numpy())
