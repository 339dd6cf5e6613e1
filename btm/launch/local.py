"""The engine of this machine: never more jobs at once than its cores, memory and cards carry.

Workers are forked from the driver's own process, which has imported everything they need, so a job
starts within milliseconds. They stop, after a checkpoint, when the driver dies.
"""

import gc
import os
import select
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest.paths import Paths
from btm.launch import throughput
from btm.launch.attempt import Attempt, preload
from btm.launch.engine import Resources, Status
from btm.launch.jobs import Job
from btm.launch.records import Spec
from btm.models import weights
from btm.system import lease
from btm.train import checkpoint

_MOMENTS = {"adamw": 8.0, "adamw8bit": 2.1}  # bytes of state for each parameter
_WORKER_BYTES = 500_000_000  # of a process with torch, without a model
_MEMORY_SHARE = 0.9  # of what is available


@dataclass
class _Running:
    attempt: Attempt
    cpus: int
    memory: float
    cards: list[str]


class LocalEngine:
    """A queue in front of forked workers."""

    def __init__(self, config: Config, cores: int | None = None) -> None:
        """Measure the machine; `cores` may not be more than it has."""
        self.config, self.cluster = config, config.cluster
        self.cores = cores or len(os.sched_getaffinity(0))
        self.cards = find_cards(config.cluster.cards)
        self.memory = available_for_jobs()
        self.queue: deque[tuple[str, Spec, Resources]] = deque()
        self.running: dict[str, _Running] = {}
        self.ended: dict[str, str] = {}
        self._measured: int | None = None
        self._preloaded = False

    def submit(self, specs: Sequence[Spec], resources: Resources) -> list[str]:
        """Queue tries; `UserError` for one that this machine could never run."""
        require_room(resources, len(self.cards), self.memory)
        ids = [f"{spec.job.name}.{spec.attempt}" for spec in specs]
        self.queue.extend(zip(ids, specs, [resources] * len(specs), strict=True))
        self._start()
        return ids

    def poll(self, ids: Collection[str]) -> dict[str, Status]:
        """Reap ended workers, start queued ones that fit, and return the status of every id."""
        for id, running in list(self.running.items()):
            outcome = running.attempt.poll()
            if outcome is not None:
                self.ended[id] = outcome.message
                del self.running[id]
        self._start()
        queued = {id for id, _, _ in self.queue}
        found = {}
        for id in ids:
            if id in self.running:
                found[id] = Status("running")
            elif id in queued:
                found[id] = Status("queued")
            else:
                found[id] = Status("ended", self.ended.get(id, "not of this driver"))
        return found

    def cancel(self, ids: Collection[str]) -> None:
        """Drop queued tries and tell running ones to save and stop."""
        for item in [item for item in self.queue if item[0] in ids]:
            self.queue.remove(item)
            self.ended[item[0]] = "cancelled before it started"
        for id in ids:
            if id in self.running:
                self.running[id].attempt.stop()

    def wait(self, seconds: float) -> None:
        """Sleep until a worker ends; at most a second, to notice hangs and requests too."""
        handles = [running.attempt.handle for running in self.running.values()]
        if handles and min(handles) >= 0:
            select.select(handles, [], [], min(seconds, 1.0))
        else:
            time.sleep(min(seconds, 0.05 if handles else 0.2))

    def given_up(self) -> str:
        """Say nothing: what is queued here will start."""
        return ""

    def close(self, pulse: Callable[[], object] = lambda: None) -> None:
        """Tell every worker to save and stop, and wait until they have; call `pulse` meanwhile."""
        self.queue.clear()
        for running in self.running.values():
            running.attempt.stop()
        while self.running:
            pulse()
            self.poll([])
            self.wait(1.0)

    def _start(self) -> None:
        if self.queue and not self._preloaded:
            preload(self.config.model.config.get("model_type"))
            gc.freeze()  # forks share what is imported by now, until a collection touches it
            self._preloaded = True
        while self.queue:
            id, spec, resources = self.queue[0]
            cpus = self._cpus(spec, resources)
            memory = self._bytes(spec.job, resources)
            wanted = self._cards_of(spec, resources)
            if self.running and not self._fits(cpus, memory, max(1, wanted), resources.parallel):
                return
            self.queue.popleft()
            cards = self._free_cards()[:wanted]
            attempt = Attempt(
                spec,
                threads=cpus,
                gpus=cards if self.cards or self.cluster.cards == 0 else None,
                memory_bytes=round(resources.memory_gb * 1e9),
                hang_after=self.cluster.hang_after,
            )
            self.running[id] = _Running(attempt, cpus, memory, cards)

    def _fits(self, cpus: int, memory: float, cards: int, most: int) -> bool:
        used = list(self.running.values())
        return (
            (not most or len(used) < most)
            and sum(running.cpus for running in used) + cpus <= self.cores
            and sum(running.memory for running in used) + memory <= self.memory
            and len(self._free_cards()) >= (cards if self.cards else 0)
        )

    def _cards_of(self, spec: Spec, resources: Resources) -> int:
        """Count the cards for a job: one unless set otherwise, so that each sees only its own."""
        return resources.cards or (0 if spec.job.verb == "finish" else 1)

    def _free_cards(self) -> list[str]:
        taken = {card for running in self.running.values() for card in running.cards}
        return [card for card in self.cards if card not in taken]

    def _cpus(self, spec: Spec, resources: Resources) -> int:
        """Choose a job's threads: as set, or as its training began, so that it resumes exactly.

        Otherwise all cores for a job that runs alone, or the best number measured.
        """
        told = resources.cpus or self.config.trainer.threads or _begun_with(spec)
        if told:
            return min(max(told, resources.processes), self.cores)
        return max(self._best_cpus(spec), min(resources.processes, self.cores))

    def _best_cpus(self, spec: Spec) -> int:
        siblings = sum(other.job.verb == spec.job.verb for _, other, _ in self.queue)
        if spec.job.verb in ("seed", "finish") or (siblings < 2 and not self.running):
            return self.cores
        if self.cards:
            return max(1, self.cores // len(self.cards))
        if self._measured is None:
            self._measured = throughput.best_threads(self.config, Path(spec.forest), self.cores)
        return self._measured

    def _bytes(self, job: Job, resources: Resources) -> float:
        """Compute the memory to reserve for a job: as set, or the needs of training this model."""
        if resources.memory_gb:
            return resources.memory_gb * 1e9
        seed = Paths(self.config.forest_root).elm(self.config.seed.name).path
        count = weights.parameters(seed) if seed.is_dir() else 0
        count *= job.batches  # it may train the feed-forward layers of several domains at once
        ranks, trainer = resources.processes, self.config.trainer
        workers = 1 if ranks == 1 else 2 + ranks  # the job itself and torchrun
        models = ranks if trainer.parallel == "ddp" else 1
        state = 4 + _MOMENTS[trainer.optimizer]  # a float32 parameter and its moments
        copies = 2 if trainer.write_behind and ranks == 1 else 1  # a second one is being written
        return workers * _WORKER_BYTES + models * count * (4 + state * copies)  # 4: gradients


def require_room(resources: Resources, cards: int, memory: float) -> None:
    """Raise `UserError` for a job that exceeds a machine of so many GPUs and bytes of memory."""
    if resources.gpus > cards:
        raise UserError(f"cluster.gpus={resources.gpus}: this machine has {cards}")
    if cards and resources.cards > cards:
        raise UserError(
            f"cluster.gpus_per_expert={resources.processes}: this machine has {cards} GPUs; "
            "trainer.device=cpu needs none"
        )
    if resources.memory_gb * 1e9 > memory:
        raise UserError(
            f"cluster.memory_gb={resources.memory_gb:g}: this machine has "
            f"{memory / 1e9:.1f} GB to give"
        )


def _begun_with(spec: Spec) -> int:
    """Read the threads of a training from its checkpoint; 0 if it has none."""
    branch = lease.find(Paths(spec.forest).branch(spec.job.elm)) if spec.job.elm else None
    newest = checkpoint.latest(branch) if branch else None
    try:
        found = checkpoint.read_state(newest)["environment"] if newest else {"threads": 0}
        return int(found["threads"]) * int(str(found.get("processes", 1)).split()[0])
    except (UserError, KeyError, ValueError):
        return 0  # the job itself will report the damage


def find_cards(most: int | None = None) -> list[str]:
    """List the GPUs of this process by their names in CUDA_VISIBLE_DEVICES, without touching them.

    `most` limits their number, and sets it where none can be listed.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        found = list(takewhile(lambda name: not name.startswith("-"), names))  # -1 hides the rest
    elif shutil.which("nvidia-smi") is None:
        found = []
    else:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        count = len(listed.stdout.splitlines()) if listed.returncode == 0 else 0
        found = [str(i) for i in range(count)]
    return (found or [str(i) for i in range(most or 0)])[:most]


def available_for_jobs() -> float:
    """Return the bytes of memory that jobs may use, out of those available."""
    return _MEMORY_SHARE * available_bytes()


def available_bytes() -> int:
    """Measure the memory that is available without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
