"""The state of a fairseq checkpoint: architecture, arguments and tensors of a loaded pickle."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from btm.errors import UserError
from btm.fairseq import architecture
from btm.system.json_files import Json

if TYPE_CHECKING:
    import torch


Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Checkpoint:
    """A model: its flat settings, its parameters by fairseq's names, and its number of updates."""

    settings: Json
    parameters: Tensors
    updates: int = 0


def of_state(state: Any, where: str) -> Checkpoint:
    """Extract the model from a checkpoint's content; `UserError` if it is incomplete."""
    import torch

    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{where}: no model in it; wanted a checkpoint of fairseq-train")
    if state.get("shard_metadata") or state.get("fsdp_metadata"):
        raise UserError(
            f"{where}: one shard of a model trained with FSDP; consolidate them with fairseq first"
        )
    parts = (state.get(key) for key in ("args", "cfg"))
    args, cfg = (part if isinstance(part, dict) else None for part in parts)
    settings = architecture.flatten(args, cfg, where)
    parameters = {str(k): v for k, v in state["model"].items() if isinstance(v, torch.Tensor)}
    return Checkpoint(settings, parameters, _updates(state))


def _updates(state: Json) -> int:
    """Return the updates of the last optimizer, 0 if they are not recorded."""
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else {}
    found = last.get("num_updates", 0) if isinstance(last, dict) else 0
    return found if isinstance(found, int) else 0
