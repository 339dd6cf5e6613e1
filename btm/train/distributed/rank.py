"""A process of a distributed training: ``python -m btm.train.distributed.rank FOLDER``, started by
torchrun.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from btm.config.validation import from_dict
from btm.data.batches import Batches
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.report import Progress, Reporter
from btm.system.processes import STOP_SIGNALS, die_with_parent
from btm.train import loop as training
from btm.train import phase
from btm.train.distributed.agent import AGENT

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_UNTIL_KILLED = 60.0  # seconds


class Channel(Reporter):
    """What this rank tells the job, and hears from it; of progress the first rank alone speaks."""

    def __init__(self, rank: int) -> None:
        """Take the pipe for ourselves: what libraries print goes to the log."""
        self.rank, self.asked = rank, False
        self._pipe = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        for number in STOP_SIGNALS:  # Slurm may send them to every process of a job
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def send(self, **event: Any) -> None:
        """Send one line, whole: lines of several ranks do not mix."""
        os.write(self._pipe, json.dumps(event).encode() + b"\n")

    @contextmanager
    def training(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """Send the lines of the training's metrics."""
        yield lambda progress: self.send(progress=asdict(progress))

    def pulse(self, step: int) -> bool:
        """Send a step, and tell whether to stop: all ranks return the same."""
        from btm.train.distributed.trainee import any_of

        if self.rank == 0:
            self.send(step=step)
            # Nothing is ever written to this pipe; it is readable once the job has closed it, or
            # died.
            self.asked = self.asked or bool(select.select([_STDIN], [], [], 0)[0])
        return any_of(self.asked)

    def fail(self, error: BaseException) -> None:
        """Tell the job of an error, and wait to be ended if that is all there is to it."""
        known = (UserError, training.TrainingStoppedError, OSError, MemoryError)
        kinds = (training.TrainingFailedError, *known)
        kind = next(
            (kind.__name__ for kind in kinds if isinstance(error, kind)), type(error).__name__
        )
        kind = "MemoryError" if kind == "OutOfMemoryError" else kind
        event: dict[str, Any] = {"failed": kind, "rank": self.rank, "message": str(error)[:2000]}
        if isinstance(error, OSError):
            event |= {
                "message": error.strerror or str(error),
                "errno": error.errno,
                "path": str(error.filename or ""),
            }
        self.send(**event)
        if isinstance(error, known):
            time.sleep(
                _UNTIL_KILLED
            )  # to end now would have torchrun report it a second time, at length

    def _ask(self, *_: object) -> None:
        self.asked = True


def main(place: Path) -> int:
    """Train; return 0, or 1 after the job was told what failed."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    channel = Channel(rank)
    die_with_parent(int(os.environ[AGENT]), signal.SIGKILL)
    warnings.filterwarnings("ignore")
    try:
        result = _train(place, rank, size, channel)
        if rank == 0:
            channel.send(result=result)
    except BaseException as error:
        if not isinstance(error, (UserError, training.TrainingStoppedError)):
            traceback.print_exc()
        channel.fail(error)
        return 1
    return 0


def _train(place: Path, rank: int, size: int, channel: Channel) -> dict[str, Any]:
    """Do the phase that the job would have done alone, as one of `size`."""
    import torch.distributed as dist

    from btm.train.distributed.trainee import wait_for_all

    spec = json.loads((place / "spec.json").read_bytes())
    config = from_dict(spec["config"])
    config.trainer.threads = spec["threads"]
    config.trainer.device = _device(config.trainer.device, int(os.environ["LOCAL_RANK"]), size)
    backend = "cpu:gloo,cuda:nccl" if config.trainer.device != "cpu" else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{place / 'store'}", rank=rank, world_size=size
    )
    forest, suite = Forest(config.forest_root), open_suites(config)
    branch = forest.get_branch(spec["branch"])
    shards = [suite.shard(domain, "train") for domain in branch.domains]
    loop = partial(_loop, rank, size, config.trainer.parallel)
    result = phase.train(config, forest, branch, shards, suite, channel, channel.pulse, loop)
    wait_for_all()
    dist.destroy_process_group()
    return result


def _device(name: str, local_rank: int, size: int) -> str:
    """Return the device of a rank: each has a GPU of its own (never run on one:
    docs/distributed.md), or none has.
    """
    import torch

    if not causal_lm.pick_device(name).startswith("cuda"):
        return "cpu"
    if torch.cuda.device_count() < size:
        raise UserError(
            f"gpus_per_expert={size}: {torch.cuda.device_count()} GPUs are visible here; "
            "trainer.device=cpu does without"
        )
    torch.cuda.set_device(local_rank)
    return f"cuda:{local_rank}"


def _loop(
    rank: int,
    size: int,
    parallel: str,
    folder: Path,
    batches: Batches,
    trainer: Any,
    *words: Any,
    **rest: Any,
) -> dict[str, Any]:
    """Train as `btm.train.loop.train` does, as one of several."""
    from btm.train.distributed.trainee import KINDS

    kind = KINDS[parallel]
    model = causal_lm.load_trainable(folder, kind.loaded_on or trainer.device)
    trainee = kind(model, batches, rank, size, trainer.device)
    return training.loop(folder, trainee, trainer, *words, **rest)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(
        code
    )  # after an error other ranks may never answer, and an orderly end would wait for them
