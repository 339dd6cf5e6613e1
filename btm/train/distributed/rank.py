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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from btm.config.validation import from_dict
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.report import Progress, Reporter
from btm.system.json_files import Json
from btm.system.processes import STOP_SIGNALS, collect_garbage_seldom, die_with_parent
from btm.train import loop, phase
from btm.train.distributed.agent import AGENT
from btm.train.training import Trained, Training

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_UNTIL_KILLED = 60.0  # seconds
# Until the others give up on a rank. NCCL's own 10 minutes are less than the first rank may take to
# write the weights of a large model to a slow disk.
_SILENCE = timedelta(minutes=30)


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
        known = (UserError, TrainingStoppedError, OSError, MemoryError)
        kinds = (loop.TrainingFailedError, *known)
        kind = next(
            (kind.__name__ for kind in kinds if isinstance(error, kind)), type(error).__name__
        )
        kind = "MemoryError" if kind == "OutOfMemoryError" else kind
        event: Json = {"failed": kind, "rank": self.rank, "message": str(error)[:2000]}
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
    collect_garbage_seldom()
    channel = Channel(rank)
    die_with_parent(int(os.environ[AGENT]), signal.SIGKILL)
    warnings.filterwarnings("ignore")
    try:
        trained = _train(place, rank, size, channel)
        if rank == 0:
            channel.send(result=trained.to_json())
    except BaseException as error:
        if not isinstance(error, (UserError, TrainingStoppedError)):
            traceback.print_exc()
        channel.fail(error)
        return 1
    return 0


def _train(place: Path, rank: int, size: int, channel: Channel) -> Trained:
    """Do the phase that the job would have done alone, as one of `size`."""
    import torch.distributed as dist

    from btm.train.distributed.trainee import wait_for_all

    spec = json.loads((place / "spec.json").read_bytes())
    config = from_dict(spec["config"])
    config.trainer.threads = spec["threads"]
    config.trainer.device = _device(config.trainer.device, int(os.environ["LOCAL_RANK"]), size)
    backend = "cpu:gloo,cuda:nccl" if config.trainer.device != "cpu" else "gloo"
    dist.init_process_group(
        backend,
        init_method=f"file://{place / 'store'}",
        rank=rank,
        world_size=size,
        timeout=_SILENCE,
    )
    forest, suite = Forest(config.forest_root), open_suites(config)
    branch = forest.get_branch(spec["branch"])
    shards = [suite.shard(domain, "train") for domain in branch.domains]
    run = partial(_run, rank, size)
    trained = phase.train(config, forest, branch, shards, suite, channel, channel.pulse, run)
    wait_for_all()
    dist.destroy_process_group()
    return trained


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


def _run(rank: int, size: int, training: Training) -> Trained:
    """Train as `btm.train.loop.train` does, as one of several."""
    from btm.train.distributed.trainee import KINDS

    kind, device = KINDS[training.trainer.parallel], training.trainer.device
    model = causal_lm.load_trainable(training.folder, kind.loaded_on or device)
    trainee = kind(model, training.batches, rank, size, device)
    return loop.loop(training, trainee)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(
        code
    )  # after an error other ranks may never answer, and an orderly end would wait for them
