"""The job's side: start the ranks, pass on what they say, stop them when the job should stop.

The job keeps the lease of the branch and the sign of life; it loads no model. Two pipes tie it to
the ranks. Down the one the ranks send a JSON object a line: steps, progress, and how it ended. The
other says one thing: once it is closed, by the job or by the job's death, the ranks stop after a
step and a checkpoint.

torchrun meets in a file instead of a TCP store: its store listens on all interfaces of the machine,
`--standalone` too, and takes what anybody sends there. Between the ranks gloo and NCCL are told to
use the loopback interface.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from btm.config.cluster import processes_of
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Branch, Forest
from btm.report import Progress, Reporter
from btm.system import caches
from btm.system.json_files import Json
from btm.system.processes import STOP_SIGNALS
from btm.train.loop import TrainingFailedError
from btm.train.training import Pulse, Trained

_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
# What a rank may say of itself, and no restart of it would change, or that it was told to say.
_ERRORS: dict[str, type[Exception]] = {
    "UserError": UserError,
    "TrainingFailedError": TrainingFailedError,
    "TrainingStoppedError": TrainingStoppedError,
    "MemoryError": MemoryError,
}


class RankDiedError(OSError):
    """A process of a distributed training was killed, or ended and said nothing: the machine's
    fault, until known.
    """


def train(
    config: Config,
    forest: Forest,
    branch: Branch,
    shards: list[Shard],
    suite: Suite,
    reporter: Reporter,
    pulse: Pulse,
) -> Trained:
    """Train as `btm.train.phase.train` does, in several processes; raises what that raises, and
    `RankDiedError`.
    """
    size = processes_of(config.cluster, "train" if branch.parents else "seed")
    threads = max(1, (config.trainer.threads or len(os.sched_getaffinity(0))) // size)
    spec = {"config": asdict(config), "branch": branch.name, "threads": threads}
    with (
        caches.scratch(branch.path.parent) as place,
        reporter.training(branch.name) as report,
    ):
        Path(place, "spec.json").write_text(json.dumps(spec))
        with _running(place, size, threads) as agent:
            trained = _follow(agent, size, report, pulse)
    parts = {"ddp": "each with the whole model", "fsdp": "each with a share of the model"}
    note = (
        f"trained by {size} processes together ({config.trainer.parallel}), "
        f"{parts[config.trainer.parallel]}"
    )
    # The ranks were given a share of the threads and a device each; the card says what was asked.
    return replace(trained, trainer=asdict(config.trainer), notes=[*trained.notes, note])


@contextlib.contextmanager
def _running(place: str, size: int, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """Yield torchrun at work; in the end it is gone, and all its ranks are."""
    names = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _LOOPBACK)
    environment = os.environ | names | {"OMP_NUM_THREADS": str(threads)}
    # Held back from torchrun, which would give its ranks 30 s to save: it is for the job to tell
    # them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        agent = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "btm.train.distributed.agent",
                str(os.getpid()),
                str(size),
                place,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is the job's to hear
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with agent:
        try:
            yield agent
        finally:
            agent.kill()  # and with it its ranks, if any are left
            _pipe(agent.stdout).read()  # until the last of them has ended


def _follow(
    agent: subprocess.Popen[bytes], size: int, report: Callable[[Progress], None], pulse: Pulse
) -> Trained:
    """Return the result that the first rank sends; pass on progress, and what failed as the error
    it was.
    """
    failed: Json = {}
    died: Json = {}
    for line in _pipe(agent.stdout):
        event = _event(line)
        if "step" in event and pulse(event["step"]):
            _pipe(agent.stdin).close()
        elif "progress" in event:
            report(Progress(**event["progress"]))
        elif "result" in event:
            return Trained.from_json(event["result"])
        elif "failed" in event:
            _raise_if_known(event)
            failed = failed or event
        elif "died" in event:
            died = event
    if not failed or died.get("signal"):
        how = f"was killed by {died['signal']}" if died.get("signal") else "ended and said nothing"
        who = f"rank {died['died']} of {size}" if died else f"torchrun of {size} ranks"
        raise RankDiedError(f"{who} {how}; the newest checkpoint stands")
    raise RuntimeError(f"rank {failed['rank']} of {size}: {failed['failed']}: {failed['message']}")


def _event(line: bytes) -> Json:
    """Return the message of a rank; what a library printed goes to the log."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    sys.stderr.write(line.decode(errors="replace"))
    return {}


def _raise_if_known(event: Json) -> None:
    if event["failed"] == "OSError":
        raise OSError(event["errno"], event["message"], event["path"])
    if event["failed"] in _ERRORS:
        raise _ERRORS[event["failed"]](event["message"])


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # both are pipes
    return stream


def said(config: Config, verb: str) -> str:
    """Say for a plan in how many processes a job of `verb` trains; "" in one."""
    size = processes_of(config.cluster, verb)
    return f", {size} processes together ({config.trainer.parallel})" if size > 1 else ""


def processes(config: Config, branch: Branch) -> int:
    """Return how many processes train a branch together: a root's job is the seed's."""
    return processes_of(config.cluster, "train" if branch.parents else "seed")
