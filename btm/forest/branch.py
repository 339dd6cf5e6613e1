"""The two kinds of models in a forest: an ELM, sealed, and a branch, which may become one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from btm.forest.card import Card, Parent, read_parents
from btm.forest.paths import ModelFolder
from btm.models import causal_lm
from btm.system import lease
from btm.system.json_files import Json, read_object

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ELM:
    """One expert language model of a forest: a Hugging Face model folder with a card."""

    path: Path
    card: Card

    @property
    def name(self) -> str:
        """Its name in the forest."""
        return self.path.name

    def load(self, device: "str | torch.device" = "cpu") -> "PreTrainedModel":
        """Return the model, in evaluation mode."""
        return causal_lm.load_model(self.path, device)


@dataclass(frozen=True)
class Branch:
    """An ELM in the making: a model folder in ``branches/`` with its origin and, once trained, its
    result.
    """

    path: Path

    @property
    def name(self) -> str:
        """The name its ELM will have."""
        return lease.name_of(self.path)

    @property
    def files(self) -> ModelFolder:
        """The files of its folder."""
        return ModelFolder(self.path)

    @property
    def origin(self) -> Json:
        """Its branch.json, written when it began: domains, parents, method, estimator."""
        return read_object(self.files.origin, domains=list, parents=dict, method=str, estimator=str)

    @property
    def domains(self) -> list[str]:
        """The domains it trains on."""
        return list(self.origin["domains"])

    @property
    def parents(self) -> dict[str, Parent]:
        """Its parents with their weights; empty for a root."""
        return read_parents(self.files.origin, self.origin["parents"])

    @property
    def result(self) -> Json | None:
        """The result of its training, or None while that is not complete."""
        file = self.files.result
        return read_object(file) if file.exists() else None
