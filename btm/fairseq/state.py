"""The state of a fairseq checkpoint: architecture, arguments and tensors of a loaded pickle."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from btm.errors import UserError
from btm.fairseq import architecture

if TYPE_CHECKING:
    import torch


Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Checkpoint:
    """What makes a model: its settings, flat, and its parameters by fairseq's names; and the
    updates it has had.
    """

    settings: dict[str, Any]
    parameters: Tensors
    updates: int = 0


def of_state(state: Any, where: str) -> Checkpoint:
    """Return what makes the model of a checkpoint's content; `UserError` if that is not all
    there.
    """
    import torch

    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{where}: no model in it; wanted a checkpoint of fairseq-train")
    if state.get("shard_metadata") or state.get("fsdp_metadata"):
        raise UserError(
            f"{where}: one shard of a model trained with FSDP; consolidate them with fairseq first"
        )
    parts = [
        value if isinstance(value, dict) else None
        for value in (state.get("args"), state.get("cfg"))
    ]
    settings = architecture.flatten(parts[0], parts[1], where)
    parameters = {str(k): v for k, v in state["model"].items() if isinstance(v, torch.Tensor)}
    return Checkpoint(settings, parameters, _updates(state))


def _updates(state: dict[str, Any]) -> int:
    """Return the updates of the last optimizer, 0 where that is not told."""
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else {}
    found = last.get("num_updates", 0) if isinstance(last, dict) else 0
    return found if isinstance(found, int) else 0
