"""`btm doctor`: versions, devices, the disk that holds forests, clusters and extras, in plain
words; what is wrong comes first.
"""

import importlib.util
import os
import platform
import shutil
import socket
import sys
from importlib.metadata import version
from pathlib import Path

from btm import __version__
from btm.config.schema import Config
from btm.errors import UserError
from btm.system import disk_trial
from btm.system.extras import install

_PACKAGES = (
    "torch",
    "transformers",
    "hydra-core",
    "omegaconf",
    "submitit",
    "numpy",
    "pandas",
    "safetensors",
    "tokenizers",
)
# {extra: the package that it brings, what that is for}
_EXTRAS = {
    "parquet": ("pyarrow", "text in files of Parquet and Arrow"),
    "discover": ("sklearn", "domains without labels"),
    "lora": ("peft", "LoRA experts"),
    "int8": ("bitsandbytes", "models in half the memory"),
    "gguf": ("gguf", "models for llama.cpp"),
    "remote": ("s3fs", "push and pull of s3://"),
    "commons": ("cryptography", "btm commons: one forest of many owners"),
    "serve": ("fastapi", "btm serve"),
    "cluster": ("ray", "serving from many machines"),
    "eval": ("lm_eval", "btm bench"),
    "fairseq": ("fairseq_cli", "training with fairseq"),
    "tensorboard": ("tensorboard", "mirroring metrics"),
    "wandb": ("wandb", "mirroring metrics"),
    "mlflow": ("mlflow", "mirroring metrics"),
}
_PROBLEM = "PROBLEM: "
_PATIENCE = 3.0  # seconds for a cluster to answer
_LITTLE = 2e9  # bytes of a disk under which a demo may not fit
Row = dict[str, str]


def findings(config: Config) -> list[Row]:
    """Return a row for each finding: its subject and what was found; problems come first."""
    on_slurm = config.cluster.kind == "slurm"
    rows = [*_software(), *_machine(), *_disk(Path(config.forest_root)), *_slurm(on_slurm)]
    return sorted(
        [*rows, _ray(config), *_extras()], key=lambda row: not row["found"].startswith(_PROBLEM)
    )


def _row(what: str, found: str, *, wrong: bool = False) -> Row:
    return {"what": what, "found": _PROBLEM * wrong + found}


def _software() -> list[Row]:
    rows = [_row("btm", __version__)]
    rows += [_row("python", f"{platform.python_version()} ({sys.executable})")]
    return rows + [_row(name, version(name)) for name in _PACKAGES]


def _machine() -> list[Row]:
    import torch

    from btm.models.causal_lm import pick_precision

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = ", ".join(f"{card.name}, {card.total_memory / 1e9:.0f} GB" for card in cards)
    precision = pick_precision("auto", "cuda" if cards else "cpu")
    cores = len(os.sched_getaffinity(0))
    return [
        _row("cores", f"{cores}, torch uses {torch.get_num_threads()} threads"),
        _row("instructions", torch.backends.cpu.get_cpu_capability()),
        _row("memory", f"{memory / 1e9:.1f} GB"),
        _row("GPUs", gpus or "none: training runs on the CPU"),
        _row("trainer.precision=auto", f"{precision} on {'the GPU' if cards else 'this CPU'}"),
    ]


def _disk(root: Path) -> list[Row]:
    """Look at the forest, and try the disk that it stands on, or would."""
    from btm.forest import Forest

    stands = Forest.stands(root)
    said = f"{root} stands, {len(Forest(root).names())} ELMs" if stands else f"none in {root}"
    place = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    kind = f", {disk_trial.kind_of(place)}" if disk_trial.kind_of(place) else ""
    rows = [_row("forest", said if stands else f"{said}: btm run plants one")]
    room = f"{free / 1e9:.1f} GB free at {place}{kind}"
    rows += [_row("disk", room, wrong=free < _LITTLE)]
    try:
        trials = disk_trial.try_out(place)
    except OSError as error:
        return [*rows, _row("disk", f"{place}: {error.strerror}: no forest there", wrong=True)]
    found = [("" if trial.works else "no: ") + trial.meaning for trial in trials]
    return rows + [
        _row(f"disk: {trial.name}", text, wrong=trial.needed and not trial.works)
        for trial, text in zip(trials, found, strict=True)
    ]


def _slurm(wanted: bool) -> list[Row]:
    """Ask Slurm for its partitions; that it does not answer is a problem where jobs go to it."""
    from btm.launch import slurm_commands as slurm

    try:
        slurm.require_commands()
        parts = ", ".join(slurm.run_command(["sinfo", "--noheader", "--format=%P"]).split())
    except UserError:
        return [_row("Slurm", "none here: jobs run on this machine (cluster=local)", wrong=wanted)]
    except (slurm.AwayError, slurm.FullError) as error:
        why = str(error).partition(";")[0]
        return [_row("Slurm", f"its commands are here, but none answers: {why}", wrong=wanted)]
    return [_row("Slurm", f"partitions {parts or 'none'} (cluster=slurm)")]


def _ray(config: Config) -> Row:
    """Look for the cluster of serve.ray.address; that it does not answer is a problem where a
    server needs it.
    """
    address, wanted = config.serve.ray.address, config.serve.engine == "ray"
    if importlib.util.find_spec("ray") is None:
        return _row("Ray", f"not installed: {install('cluster')}", wrong=wanted)
    found = f"{version('ray')}, "
    if address is None:
        return _row("Ray", found + "no cluster named: a server begins one here (serve.ray.address)")
    if address == "auto":
        return _row("Ray", found + "serve.ray.address=auto: whether one runs here is not looked at")
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        wrong = f"serve.ray.address={address}: wanted HOST:PORT or auto"
        return _row("Ray", found + wrong, wrong=wanted)
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        why = error.strerror or error
        return _row("Ray", found + f"none answers at {address}: {why}", wrong=wanted)
    return _row("Ray", found + f"a cluster answers at {address}")


def _extras() -> list[Row]:
    rows = []
    for extra, (package, purpose) in _EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        found = "installed" if there else f"not installed, for {purpose}: {install(extra)}"
        rows.append(_row(f"extra {extra}", found))
    return rows
