"""Resume a training from its newest checkpoint, if that is of the same settings."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from btm.config.identity import OF_MACHINE, spelled
from btm.config.training import TrainerConfig
from btm.data.batches import ORDER
from btm.errors import UserError
from btm.system import lease
from btm.system.json_files import Json
from btm.train import checkpoint
from btm.train.schedule import Schedule
from btm.train.trainee import Trainee

if TYPE_CHECKING:
    import torch


# What may change between the parts of one training: what its result does not depend on beyond
# rounding, and what the schedule holds. `environment_of` and the state keep what rounding needs.
_FREE = {key.partition(".")[2] for key in OF_MACHINE} | {"steps", "lr"}


def settings_of(trainer: TrainerConfig, schedule: Schedule, steps: int) -> Json:
    """Return the settings that the parts of one training must have in common."""
    kept = {key: value for key, value in asdict(trainer).items() if key not in _FREE}
    return kept | asdict(schedule) | {"steps": steps}


def require_same(found: Path, begun: Json, settings: Json) -> None:
    """Raise `UserError` if the checkpoint `found` was begun with other settings."""
    # A setting that is younger than the checkpoint had its default.
    begun = asdict(TrainerConfig()) | begun
    changed = sorted(key for key in settings if begun.get(key) != settings[key])
    if changed == ["data"] and isinstance(begun.get("data"), dict):
        domains = sorted(d for d in settings["data"] if begun["data"].get(d) != settings["data"][d])
        raise UserError(
            f"{lease.name_of(found.parent)!r} is half trained on other text than train of "
            f"{', '.join(domains)} has now: prepare the text as it was, or delete the checkpoints "
            f"in {found.parent} to begin anew"
        )
    if "auto" in (begun.get("precision"), settings.get("precision")):
        changed = [key for key in changed if key != "precision"]  # the environment has what it was
    if changed:
        was = ", ".join(
            f"{key} was {spelled(begun.get(key))}, now {spelled(settings[key])}" for key in changed
        )
        raise UserError(
            f"{lease.name_of(found.parent)!r} is half trained with other settings ({was}): "
            f"restore them, or delete the checkpoints in {found.parent} to begin anew"
        )


def environment_of(precision: str, trainer: TrainerConfig, device: str) -> Json:
    """Return the machine and the libraries that the last bits of a training depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
        "kernels": trainer.kernels,
        "micro-batches of": trainer.micro_batch_size or trainer.batch_size,
        "data order": ORDER,
        **({} if device == "cpu" else {"device": _name(device)}),
    }


def _name(device: str) -> str:
    """Return the model name of a GPU, or the kind of another device."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def resume(
    folder: Path,
    trainee: Trainee,
    optimizer: "torch.optim.Optimizer",
    settings: Json,
    environment: Json,
) -> Json:
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
    # What a checkpoint does not say was so when it was written.
    usual = {"processes": "1", "device": "cpu", "data order": 1}
    usual["micro-batches of"] = environment["micro-batches of"]
    before = usual | state["environment"]
    environment = {"device": "cpu"} | environment
    different = {key: value for key, value in environment.items() if before.get(key) != value}
    for key, value in different.items():
        note = f"resumed at step {state['step']} with {key} {value}, begun with {before.get(key)}"
        state = state | {"exact": False, "notes": [*state["notes"], note]}
    if environment["device"] != "cpu":
        note = f"resumed at step {state['step']} on a GPU, which adds in no fixed order"
        state = state | {"exact": False, "notes": [*state["notes"], note]}
    trainee.load(found, optimizer)
    return state | {"environment": environment}
