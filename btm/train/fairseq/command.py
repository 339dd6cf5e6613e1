"""The command that trains with fairseq: whose interpreter, and which options say what `trainer`
says.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.training import TrainerConfig
from btm.errors import UserError
from btm.fairseq import architecture
from btm.fairseq.architecture import Architecture
from btm.system.extras import install

if TYPE_CHECKING:
    from btm.train.schedule import Schedule

ENTRY = Path(__file__).with_name("entry.py")
_MODULE = "fairseq_cli"  # beside `fairseq` in every distribution, and the name of nothing else
_PROBE = (
    "import sys; del sys.path[0]; import importlib.util as u; sys.exit(not "
    f"u.find_spec({_MODULE!r}))"
)
_NEVER = 1 << 30  # an interval that no training reaches
# Options that settings of btm decide, and those settings; what stands here with "" is decided by
# what btm does.
_DECIDED = {
    "lr": "trainer.lr",
    "max-update": "trainer.steps",
    "batch-size": "trainer.batch_size and trainer.micro_batch_size",
    "max-sentences": "trainer.batch_size and trainer.micro_batch_size",
    "max-tokens": "trainer.batch_size and trainer.micro_batch_size",
    "update-freq": "trainer.batch_size and trainer.micro_batch_size",
    "tokens-per-sample": "trainer.seq_len",
    "optimizer": "trainer.optimizer",
    "adam-betas": "trainer.betas",
    "weight-decay": "trainer.weight_decay",
    "clip-norm": "trainer.clip",
    "warmup-updates": "trainer.warmup",
    "lr-scheduler": "trainer.decay",
    "seed": "trainer.seed",
    "cpu": "trainer.device",
    "save-interval-updates": "trainer.checkpoint_every",
    "log-interval": "trainer.log_every",
    "arch": "model",
    **dict.fromkeys(
        ("activation-fn", "dropout", "attention-dropout", "activation-dropout"), "model"
    ),
    **dict.fromkeys(
        ("no-decoder-final-norm", "no-scale-embedding", "max-target-positions"), "model"
    ),
    **dict.fromkeys(("share-decoder-input-output-embed", "relu-dropout", "add-bos-token"), "model"),
    **dict.fromkeys(("distributed-world-size", "distributed-init-method", "distributed-port"), ""),
    **dict.fromkeys(
        ("save-dir", "save-interval", "restore-file", "finetune-from-model", "no-save"), ""
    ),
    **dict.fromkeys(("keep-interval-updates", "no-epoch-checkpoints", "no-last-checkpoints"), ""),
    **dict.fromkeys(
        ("reset-optimizer", "reset-dataloader", "reset-lr-scheduler", "reset-meters"), ""
    ),
    **dict.fromkeys(("task", "sample-break-mode", "criterion", "log-format", "log-file"), ""),
    **dict.fromkeys(("disable-validation", "valid-subset", "train-subset", "max-epoch"), ""),
}


def interpreter(python: str | None) -> str:
    """Return the Python that has fairseq: `python`, a path or a command, or else the one that runs
    btm.

    Raises `UserError` if there is none, or no fairseq in it.
    """
    if python is None:
        if importlib.util.find_spec(_MODULE) is None:
            raise UserError(
                f"trainer.backend=fairseq: there is no fairseq in {sys.executable}: {_how()}"
            )
        return sys.executable
    found = shutil.which(python)
    if found is None:
        raise UserError(f"fairseq.python={python}: no program that can be run: {_how()}")
    try:
        done = subprocess.run([found, "-c", _PROBE], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"fairseq.python={python}: no Python: {error}") from None
    if done.returncode:
        raise UserError(f"fairseq.python={python}: there is no fairseq in it: {_how()}")
    return found


def extra_options(options: Mapping[str, Any]) -> list[str]:
    """Return the words of `fairseq.options` {name: value}: true is a flag, false and null leave it
    out, lists are words.

    Raises `UserError` for what is no option, or is decided by settings of btm.
    """
    words: list[str] = []
    for key, value in options.items():
        name = str(key).removeprefix("--").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise UserError(
                f"fairseq.options: {key!r} is no option of fairseq-train; wanted {{fp16: true, …}}"
            )
        if name in _DECIDED or name.startswith("decoder-"):
            by = _DECIDED.get(name, "model")
            raise UserError(
                f"fairseq.options.{key}: {f'give {by}' if by else 'btm decides that itself'}"
            )
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, dict | list) or str(v).startswith("--") for v in values):
            raise UserError(
                f"fairseq.options.{key}={value!r}: wanted true, a word, a number, or a list of "
                "these"
            )
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            words.append(f"--{name}={value}")
    return words


def options(
    model: Architecture, trainer: TrainerConfig, schedule: "Schedule", steps: int, device: str
) -> list[str]:
    """Return the options of fairseq-train that have it train `model` for `steps` as `trainer` says.

    The language-modelling task with windows across documents, Adam with decoupled decay, one line
    of JSON an update.
    """
    if schedule.offset:
        raise UserError(
            "trainer.backend=fairseq: it cannot go on with a schedule that another training began"
        )
    if schedule.decay == "wsd":
        raise UserError(
            "trainer.decay=wsd: no schedule of fairseq is constant, then a line; give linear or "
            "another"
        )
    micro = trainer.micro_batch_size or trainer.batch_size
    if trainer.batch_size % micro:
        raise UserError(
            f"trainer.micro_batch_size={micro}: trainer.batch_size={trainer.batch_size} is no "
            "multiple of it, "
            "and fairseq accumulates batches of one size"
        )
    if trainer.precision == "bf16" and device == "cpu":
        raise UserError(
            "trainer.precision=bf16: fairseq computes in bfloat16 on GPUs alone; give auto or fp32"
        )
    beta1, beta2 = trainer.betas
    values: dict[str, Any] = {
        "task": "language_modeling",
        "sample-break-mode": "none",
        "tokens-per-sample": trainer.seq_len,
        "batch-size": micro,
        "required-batch-size-multiple": 1,
        "update-freq": trainer.batch_size // micro,
        "max-update": steps,
        "criterion": "cross_entropy",
        "optimizer": "adam",
        "adam-betas": f"({beta1}, {beta2})",
        "adam-eps": 1e-8,
        "weight-decay": trainer.weight_decay,
        "clip-norm": trainer.clip,
        "seed": trainer.seed,
        "num-workers": 0,
        "distributed-world-size": 1,
        "disable-validation": True,
        "save-interval": _NEVER,
        "save-interval-updates": trainer.checkpoint_every,
        "keep-interval-updates": 1,
        "no-epoch-checkpoints": True,
        "log-format": "json",
        "log-interval": 1,
        "cpu": device == "cpu",
        "bf16": trainer.precision == "bf16",
        "checkpoint-activations": trainer.gradient_checkpointing,
    }
    return _words(values | _rate(schedule) | _model(model))


def _rate(schedule: "Schedule") -> dict[str, Any]:
    """Return the options of the learning rate: fairseq's polynomial is also a line, and a
    constant.
    """
    shared = {"lr": schedule.peak, "warmup-updates": schedule.warmup_steps}
    end = schedule.peak * (1.0 if schedule.decay == "constant" else schedule.final)
    if schedule.decay == "cosine":
        period = max(1, schedule.horizon - schedule.warmup_steps)
        own = {
            "lr-scheduler": "cosine",
            "min-lr": end,
            "lr-period-updates": period,
            "warmup-init-lr": 0,
        }
        return shared | own
    power = schedule.power if schedule.decay == "polynomial" else 1.0
    own = {"lr-scheduler": "polynomial_decay", "end-learning-rate": end, "power": power}
    return shared | own | {"total-num-update": schedule.horizon}


def _model(model: Architecture) -> dict[str, Any]:
    """Return the options of the architecture, each of them: no default of an --arch is left to
    chance.
    """
    settings = architecture.settings_of(model)
    left_out = ("_name", "add_bos_token", "tokens_per_sample", "tpu")
    named = {key.replace("_", "-"): value for key, value in settings.items() if key not in left_out}
    return {"arch": "transformer_lm", **named}


def _words(values: Mapping[str, Any]) -> list[str]:
    flags = [f"--{name}" for name, value in values.items() if value is True]
    return flags + [
        f"--{name}={value}" for name, value in values.items() if not isinstance(value, bool)
    ]


def environment(device: str, threads: int) -> dict[str, str]:
    """Return the variables of the training: ours, the threads, and the one GPU that it may see."""
    made = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    if threads:
        made |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if device.startswith("cuda"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        index = int(device.partition(":")[2] or 0)
        made["CUDA_VISIBLE_DEVICES"] = visible[index] if visible != [""] else str(index)
    return made


def _how() -> str:
    """Return how fairseq is had, for the messages that miss it."""
    return (
        "make an environment with scripts/fairseq and give "
        "fairseq.python=.venv-fairseq/bin/python, "
        f"or {install('fairseq')} (Linux, x86-64, Python 3.11 or 3.12)"
    )
