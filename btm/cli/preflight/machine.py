"""What this machine has: devices, memory, disk, and folders that can be written.

On Slurm the jobs run on other machines than the one that is asked, so their devices and memory are
Slurm's to know.
"""

import os
import shutil
from pathlib import Path

from btm import steps
from btm.cli.preflight.names import rounds
from btm.config.schema import Config
from btm.errors import UserError
from btm.launch import container
from btm.launch.engine import Resources
from btm.launch.forecast import disk_bytes
from btm.launch.jobs import Verb
from btm.launch.local import available_for_jobs, find_cards, require_room
from btm.models import causal_lm
from btm.report.progress import bytes_text
from btm.serve.http.access import require_token

_VERBS: tuple[Verb, ...] = ("seed", "train", "score", "finish")


def device(config: Config) -> None:
    """Require the GPU that trainer.device names; torch is asked only where one is named."""
    if config.trainer.device not in ("auto", "cpu") and not _elsewhere(config):
        causal_lm.pick_device(config.trainer.device)


def token(config: Config) -> None:
    """Require a token where others than this machine could ask a server."""
    require_token(config.serve)


def cards_of_seed(config: Config) -> None:
    """Require a GPU for each process that trains the seed, where GPUs are used."""
    _cards(config, "seed")


def cards_of_train(config: Config) -> None:
    """Require a GPU for each process that trains an expert, where GPUs are used."""
    _cards(config, "train")


def jobs(config: Config) -> None:
    """Require the GPUs and the memory that each kind of job of a cycle asks for; on Slurm the image
    of its container.
    """
    if _elsewhere(config):
        return container.require(config)
    if config.cluster.kind == "debug":
        cards_of_seed(config)
        return cards_of_train(config)
    cards, memory = find_cards(config.cluster.cards), available_for_jobs()
    for verb in _VERBS:
        require_room(Resources.of(config.cluster, verb, config.trainer.device), len(cards), memory)
        _own_card(config, verb, cards)


def memory_of_student(config: Config) -> None:
    """Require the memory that the teachers and then a student's training take, on a CPU."""
    if causal_lm.pick_device(config.trainer.device) != "cpu":
        return
    needed, free = steps.memory_of(config), available_for_jobs()
    if needed > free:
        raise UserError(
            f"distilling needs {bytes_text(needed)} of memory, and {bytes_text(free)} are free: "
            "give fewer teachers (distil.experts=[…]), or a machine with more"
        )


def disk(config: Config) -> None:
    """Require the bytes that a cycle writes at most, as far as they are still missing."""
    at_once = config.cluster.parallel or (
        os.cpu_count() or 1 if config.cluster.kind != "slurm" else 64
    )
    folder = Path(config.forest_root)
    needed = disk_bytes(config, rounds(config), 1 if config.cluster.kind == "debug" else at_once)
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise UserError(
            f"{folder}: the cycle needs {bytes_text(needed)} of disk at most, and "
            f"{bytes_text(free)} are free: "
            "make room, give forest=DIR on another disk, or a smaller cluster.parallel"
        )


def forest_folder(config: Config) -> None:
    """Require that the forest can be written."""
    _require_writable("forest", config.forest_root)


def data_folder(config: Config) -> None:
    """Require that the suite can be written."""
    _require_writable("data.out", str(Path(config.data.out) / config.data.name))


def discover_folder(config: Config) -> None:
    """Require that what discovery finds can be written."""
    _require_writable("discover.out", config.discover_target)


def paper_folder(config: Config) -> None:
    """Require that a reproduction can be written."""
    _require_writable("paper.out", config.paper.out or f"results/{config.paper.name}")


def export_folder(config: Config) -> None:
    """Require that what is exported can be written."""
    if config.to is not None:
        _require_writable("to", str(Path(config.to).parent))


def _elsewhere(config: Config) -> bool:
    """Tell whether jobs run on machines that cannot be asked from here."""
    return config.cluster.kind == "slurm"


def _cards(config: Config, verb: Verb) -> None:
    resources = Resources.of(config.cluster, verb, config.trainer.device)
    cards = find_cards(config.cluster.cards)
    if resources.processes > 1 and cards:
        require_room(resources, len(cards), float("inf"))


def _own_card(config: Config, verb: Verb, cards: list[str]) -> None:
    """Require that trainer.device is a GPU that a local job sees: its own, which it counts
    from 0.
    """
    name = config.trainer.device
    own = Resources.of(config.cluster, verb, name).cards or 1
    if cards and name.startswith("cuda:") and int(name[5:]) >= own and verb in ("seed", "train"):
        raise UserError(
            f"trainer.device={name}: a job sees its own {own} of this machine's GPUs alone, from "
            "cuda:0 on; "
            "give trainer.device=cuda, and choose cards with CUDA_VISIBLE_DEVICES"
        )


def _require_writable(key: str, path: str) -> None:
    place = _existing(Path(path))
    if not place.is_dir():
        raise UserError(f"{key}={path}: {place} is a file; wanted a folder, or a place for one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{key}={path}: {place} cannot be written; give {key}=DIR elsewhere")


def _existing(path: Path) -> Path:
    """Return a path, or the nearest above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
