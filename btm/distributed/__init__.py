"""One expert on several devices: torchrun runs processes that train it together, each on its rows of every batch.

`launch` is what the job does that holds the branch: it starts them and passes on what they say. `agent` is torchrun
as a program of its own, `rank` is what each process runs, `trainee` what differs in it from a process alone: under DDP
each holds the whole model, under FSDP2 a share of it. Checkpoints are written by all (`btm.sharded`).
"""

from btm.checks import processes_of
from btm.config import Config
from btm.distributed.launch import RankDiedError, train
from btm.forest import Branch

__all__ = ["RankDiedError", "processes", "said", "train"]


def said(config: Config, verb: str) -> str:
    """Return what is to be added where the training of a job of `verb` is told: nothing if it has one process."""
    size = processes_of(config.cluster, verb)
    return f", {size} processes together ({config.trainer.parallel})" if size > 1 else ""


def processes(config: Config, branch: Branch) -> int:
    """Return how many processes train a branch together: a root's job is the seed's."""
    return processes_of(config.cluster, "train" if branch.parents else "seed")
