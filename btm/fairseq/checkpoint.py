"""fairseq's `checkpoint*.pt`, opened without running anything that it contains.

A checkpoint is a pickle. torch's restricted reader (``weights_only=True``) accepts tensors and
plain values, which is all that fairseq 0.12 writes. Older checkpoints hold more;
`btm.fairseq.legacy` reads those.
"""

import re
import zipfile
from pathlib import Path

from btm.errors import UserError, first_line
from btm.fairseq import architecture
from btm.fairseq.architecture import Architecture
from btm.fairseq.state import Checkpoint, Tensors, of_state
from btm.system import durable, lfs

_NAMES = ("checkpoint_best.pt", "checkpoint_last.pt")


def find(source: Path) -> Path:
    """Find the checkpoint in the file or folder `source`; `UserError` for none, or part of one."""
    found = source
    if source.is_dir():
        there = sorted(source.glob("*.pt"))
        named = [source / name for name in _NAMES if (source / name) in there]
        if not named and len(there) != 1:
            have = ", ".join(path.name for path in there) or "none"
            raise UserError(
                f"{source}: wanted a checkpoint_best.pt, or one .pt alone; have: {have}"
            )
        found = (named or there)[0]
    if not found.is_file():
        raise UserError(f"no checkpoint {found}; wanted a .pt file of fairseq-train, or its folder")
    part = re.search(r"-(rank-\d+|shared|shard\d+)\.pt$", found.name)
    if part:
        raise UserError(
            f"{found}: {part[1]} is one part of a model (DEMix, mixture of experts or FSDP); join "
            "the parts with the code that wrote them, into one file for each domain, and give that"
        )
    return found


def read(path: Path, scratch: Path, *, legacy: bool = False) -> Checkpoint:
    """Open a checkpoint; its tensors stay on disk until they are used, where the file allows that.

    Raises `UserError` if it is none, or holds more than tensors and plain values and `legacy` is
    false. With `legacy` a child process reads it and leaves the tensors in the folder `scratch`.
    """
    import pickle

    import torch

    lfs.refuse(path)
    mapped = zipfile.is_zipfile(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise UserError(
                f"{path}: no checkpoint that torch reads: it is damaged or of another kind"
            ) from None
        if not legacy:
            raise UserError(
                f"{path}: holds {wanted[1]}, more than tensors and plain values; "
                "import.legacy=true reads what older fairseq wrote, in a process of its own and "
                "running none of it"
            ) from None
        from btm.fairseq import legacy as old

        return old.read(path, scratch)
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive shows as whatever its reader raises
        why = first_line(error)
        raise UserError(f"{path}: no checkpoint that torch reads: {why}") from None
    return of_state(state, str(path))


def write(path: Path, model: Architecture, parameters: Tensors) -> None:
    """Publish a checkpoint that fairseq-eval-lm and fairseq-train --finetune-from-model load."""
    import torch

    state = {
        "args": None,
        "cfg": {
            "_name": None,
            "model": architecture.settings_of(model),
            "task": {
                "_name": "language_modeling",
                "data": None,
                "tokens_per_sample": model.positions,
                "add_bos_token": False,
            },
            "criterion": {"_name": "cross_entropy", "sentence_avg": False},
            "common": {"tpu": False},
        },
        "model": {"decoder.version": torch.tensor([3.0]), **parameters},
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "CrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
        "last_optimizer_state": None,
    }
    with durable.publish_file(path) as handle:
        torch.save(state, handle)
