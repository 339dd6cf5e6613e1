"""Training of an expert that is its parents and an adapter.

peft puts two factors beside each linear layer that is adapted, W = W_0 + α/r · B A, and these alone
are trained and kept in checkpoints. In the end they are rounded to float16 and the weights made of
that, so the ELM is exactly what its adapter (`btm.forest.adapter`) says.
"""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from btm.config.training import TrainerConfig
from btm.errors import UserError
from btm.forest import adapter
from btm.forest.adapter import Adapter
from btm.forest.card import read_parents
from btm.forest.paths import ModelFolder, step_of
from btm.models import causal_lm, eightbit, flops, low_rank, trial, weights
from btm.system import durable, lease
from btm.system.extras import install
from btm.system.json_files import Json, read_object
from btm.train import loop
from btm.train.lora.targets import chosen
from btm.train.trainee import Trainee
from btm.train.training import Trained, Training

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_NAME = "default"  # of the one adapter, in peft's modules
_MADE = "adapted"  # folder of the new weights until they are in their place
_DTYPE = "F16"  # of the stored factors


def train(training: Training) -> Trained:
    """Train a branch as `btm.train.loop.train` does, by an adapter alone.

    The result says in addition `adapter`: rank, alpha, targets, parameters, bytes of the file.
    Raises `UserError` too if trainer.lora_targets match no linear layer, or peft is not installed.
    """
    settle(training.folder)
    model = causal_lm.load_trainable(training.folder, training.trainer.device)
    trial.run(model, training.batches.seq_len, str(training.folder))
    trainee = LoraTrainee(
        model, training.batches, training.folder, training.trainer, training.steps
    )
    return replace(loop.loop(training, trainee), adapter=trainee.said)


@dataclass
class LoraTrainee(Trainee):
    """A frozen model with an adapter that is trained; `layers` are those that it changes."""

    folder: Path
    trainer: TrainerConfig
    steps: int
    layers: list[str] = field(init=False)
    said: Json = field(init=False, default_factory=dict)
    _trained: "nn.Module" = field(init=False)

    may_compile: ClassVar[bool] = False  # peft's layers were not tried so

    def __post_init__(self) -> None:
        """Put the factors beside the layers; A is drawn from trainer.seed, B is 0."""
        import torch

        base = flops.Shape.of(self.model)
        # Forward, and backward to what each layer read; of the base no gradient is taken.
        self._flops = base.training_flops(self.batches.seq_len) * 2 / 3 if self.batches else 0.0
        self.layers = chosen(self.model, self.trainer.lora_targets)
        _require_stored(self.layers, self.folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.trainer.seed)
            inject(self.model, self.layers, self.trainer)
        # Names of parameters hold no dots.
        factors = {
            f"{layer}/{part}".replace(".", "/"): factor
            for layer in self.layers
            for part, factor in zip("AB", self._factors(layer), strict=True)
        }
        self._trained = torch.nn.ParameterDict(factors)

    @property
    def trained(self) -> "nn.Module":
        """The factors alone."""
        return self._trained

    def flops(self, steps: int) -> float:
        """Return the FLOPs of the first `steps` steps: no gradient of frozen matrices is taken."""
        own = sum(factor.numel() for factor in self.trained.parameters())
        return self.batches.read(steps) * (self._flops + 6 * own)

    def restore(self, found: Path | None) -> None:
        """Refuse to train on where the folder's weights are the trained ones already."""
        written = (self.folder / adapter.FILE).exists()
        if written and (found is None or step_of(found) < self.steps):
            raise UserError(
                f"{lease.name_of(self.folder)!r} was trained, but its last checkpoint is gone: "
                "delete the branch and branch again"
            )
        super().restore(found)

    def write(self, folder: Path, dtype: str) -> None:
        """Publish the adapter, and replace the weights by the branch point with it added."""
        if not (folder / adapter.FILE).exists():  # else a kill came after this, before trained.json
            with durable.publish_folder(folder / _MADE) as scratch:
                self._make(folder, scratch)
            settle(folder)
        made = adapter.read(folder / adapter.FILE)
        self.said = made.facts(folder / adapter.FILE)

    def _make(self, folder: Path, target: Path) -> None:
        """Write the adapter, and the weights that come of it, into `target`."""
        origin = ModelFolder(folder).origin
        parents = read_parents(origin, read_object(origin, parents=dict)["parents"])
        changes = self._changes()
        adapter.require_fits(changes, folder, f"the branch {lease.name_of(folder)!r}")
        adapter.add(changes, folder, target)
        t, sha256 = self.trainer, weights.sha256(target)
        targets = sorted(t.lora_targets or {layer.rpartition(".")[2] for layer in self.layers})
        made = Adapter(parents, sha256, t.lora_rank, t.lora_alpha, targets, changes)
        adapter.write(target / adapter.FILE, made)

    def _factors(self, layer: str) -> "tuple[nn.Parameter, nn.Parameter]":
        module: Any = self.model.get_submodule(layer)
        return module.lora_A[_NAME].weight, module.lora_B[_NAME].weight

    def _changes(self) -> dict[str, low_rank.LowRank]:
        """Return the changes by stored tensor, their factors rounded to what is stored."""
        import numpy as np

        made = {}
        for layer in self.layers:
            a, b = (factor.detach().half().cpu().numpy() for factor in self._factors(layer))
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise UserError(
                    f"a factor of {layer!r} is larger than float16 holds: lower trainer.lr"
                )
            made[f"{layer}.weight"] = low_rank.LowRank(
                layer,
                a.astype(np.float32),
                b.astype(np.float32),
                self.trainer.lora_alpha / self.trainer.lora_rank,
                transposed=is_transposed(self.model.get_submodule(layer)),
                dtype=_DTYPE,
            )
        return made


def inject(model: "PreTrainedModel", layers: list[str], trainer: TrainerConfig) -> None:
    """Put peft's factors beside linear `layers` of a model, and freeze all else.

    Raises `UserError` if peft is not installed, or cannot adapt such a model.
    """
    eightbit.import_first()
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(f"trainer.adapter=lora needs peft: {install('lora')}") from None
    transposed = {is_transposed(model.get_submodule(layer)) for layer in layers}
    config = LoraConfig(
        r=trainer.lora_rank,
        lora_alpha=trainer.lora_alpha,
        target_modules=list(layers),
        fan_in_fan_out=transposed == {True},
    )
    model.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where a model has layers of both kinds
            inject_adapter_in_model(config, model, _NAME)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        raise UserError(
            f"trainer.adapter=lora: peft cannot adapt {type(model).__name__}: "
            f"{causal_lm.why(error)}"
        ) from None


def _require_stored(layers: list[str], folder: Path) -> None:
    """Raise `UserError` if a layer's matrix has another name in the weight files than in memory."""
    stored = weights.tensors(folder)
    for name in (f"{layer}.weight" for layer in layers):
        if name not in stored:
            raise UserError(
                f"trainer.adapter=lora: {name!r} is none of the tensors in {folder}, so this "
                "architecture can only be trained densely (trainer.adapter=none)"
            )


def is_transposed(layer: "torch.nn.Module") -> bool:
    """Tell whether a linear layer, or the one that peft wrapped, holds its matrix (in, out)."""
    return type(getattr(layer, "base_layer", layer)).__name__ == "Conv1D"


def settle(folder: Path) -> None:
    """Move new weights that stand whole beside the old ones into their place, the adapter last.

    A process that is killed meanwhile leaves what the next one goes on with.
    """
    made = folder / _MADE
    if not made.is_dir():
        return
    for file in sorted(made.iterdir(), key=lambda file: (file.name == adapter.FILE, file.name)):
        file.replace(folder / file.name)
    durable.sync_folder(folder)
    made.rmdir()
