"""Resume a training from its newest checkpoint, if that is of the same settings."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.training import TrainerConfig
from btm.errors import UserError
from btm.system import lease
from btm.train import checkpoint
from btm.train.schedule import Schedule
from btm.train.trainee import Trainee

if TYPE_CHECKING:
    import torch


# What may change between the parts of one training without changing its result.
_FREE = {"threads", "checkpoint_every", "log_every", "mirrors", "device", "steps", "lr", "parallel"}
_FREE |= {
    "gradient_checkpointing",
    "offload",
    "write_behind",
}  # the same numbers, at other times or places
_FREE |= {"kernels", "compile"}  # the same up to rounding; `environment_of` and the state keep them


def settings_of(trainer: TrainerConfig, schedule: Schedule, steps: int) -> dict[str, Any]:
    """Return the settings that the parts of one training must have in common."""
    kept = {key: value for key, value in asdict(trainer).items() if key not in _FREE}
    return kept | asdict(schedule) | {"steps": steps}


def require_same(found: Path, begun: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise `UserError` if the checkpoint `found` was begun with other settings."""
    # A setting that is younger than the checkpoint had its default.
    begun = asdict(TrainerConfig()) | begun
    changed = sorted(key for key in settings if begun.get(key) != settings[key])
    if changed:
        was = ", ".join(f"{key} was {begun.get(key)}, now {settings[key]}" for key in changed)
        raise UserError(
            f"{lease.name_of(found.parent)!r} is half trained with other settings ({was}): "
            f"restore them, or delete {found}"
        )


def environment_of(precision: str, trainer: TrainerConfig) -> dict[str, Any]:
    """Return the machine and the libraries that the last bits of a training depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
        "kernels": trainer.kernels,
    }


def resume(
    folder: Path,
    trainee: Trainee,
    optimizer: "torch.optim.Optimizer",
    settings: dict[str, Any],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Load the newest checkpoint into `trainee` and `optimizer`; return the state, at step 0 if
    there is none.
    """
    found = checkpoint.latest(folder)
    if found is None:
        return {
            "step": 0,
            "settings": settings,
            "environment": environment,
            "exact": True,
            "notes": [],
        }
    state = checkpoint.read_state(found)
    require_same(found, state["settings"], settings)
    before = {"processes": "1"} | state["environment"]
    different = {key: value for key, value in environment.items() if before.get(key) != value}
    for key, value in different.items():
        note = f"resumed at step {state['step']} with {key} {value}, begun with {before.get(key)}"
        state = state | {"exact": False, "notes": [*state["notes"], note]}
    trainee.load(found, optimizer)
    return state | {"environment": environment}
