"""The layers of a model that an adapter changes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from btm.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_KEY = "trainer.lora_targets"


def chosen(model: "PreTrainedModel", targets: Sequence[str]) -> list[str]:
    """List the linear layers whose names are, or end with, one of `targets`, in the model's order.

    Without targets all but the output layer. Raises `UserError` for a target that matches nothing,
    or something that is no linear layer.
    """
    head = model.get_output_embeddings()
    able = {
        name: module
        for name, module in model.named_modules()
        if is_linear(module) and module is not head
    }
    ends = sorted({name.rpartition(".")[2] for name in able})
    if not ends:
        raise UserError(
            f"trainer.adapter=lora: {type(model).__name__} has no linear layer that peft can "
            "adapt; wanted trainer.adapter=none"
        )
    if not targets:
        return list(able)
    modules = {name: module for name, module in model.named_modules() if name}
    matched = {target: [name for name in modules if _is(name, target)] for target in targets}
    for target, names in matched.items():
        if not names:
            raise UserError(
                f"{_KEY}: {target!r} matches no layer{nearest(target, ends)}; "
                f"have: {', '.join(ends)}"
            )
        for name in names:
            _require_able(model, name, modules[name], ends)
    wanted = {name for names in matched.values() for name in names}
    return [name for name in modules if name in wanted]


def is_linear(module: "nn.Module") -> bool:
    """Tell whether a module is a linear layer as torch or GPT-2 have it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _require_able(
    model: "PreTrainedModel", name: str, module: "nn.Module", ends: Sequence[str]
) -> None:
    if not is_linear(module):
        raise UserError(
            f"{_KEY}: {name!r} is a {type(module).__name__}, which has no one matrix to adapt; "
            f"wanted of {', '.join(ends)}"
        )
    embedding = model.get_input_embeddings()
    if getattr(embedding, "weight", None) is getattr(module, "weight", None):
        raise UserError(
            f"{_KEY}: {name!r} shares its matrix with the embedding, which would change with it; "
            f"wanted of {', '.join(ends)}"
        )
