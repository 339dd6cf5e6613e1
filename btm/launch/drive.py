"""The driver of a cycle: looks at the disk and at the engine, and starts what may start, until
nothing is left.

It has no memory that matters. Killed at any moment, a new one reads the forest, the outcomes and
what the engine still runs, and goes on; a job that runs is never submitted again.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from btm.config.cluster import ClusterConfig
from btm.errors import UserError
from btm.forest import Forest
from btm.launch.engine import Engine, Resources
from btm.launch.jobs import Job, Verb, Waiting
from btm.launch.records import Cycle, Kind, Outcome, Records, Spec, show_file

State = Literal["waiting", "ready", "submitted", "done", "failed", "blocked", "cancelled"]
FINAL: tuple[State, ...] = ("done", "failed", "blocked", "cancelled")

_MISTAKES: tuple[Kind, ...] = ("mistake", "blocked", "cancelled")
_LONGEST_BACKOFF = 600.0
_SHOW_EVERY = 0.5  # seconds between updates of state.json, more with thousands of jobs


@dataclass
class Task:
    """A job and what the driver knows of it."""

    job: Job
    state: State = "waiting"
    attempt: int = 0
    id: str = ""
    message: str = ""
    not_before: float = 0.0
    engine_state: str = ""
    missing_since: float = 0.0


def retry_after(tries: Sequence[Outcome], cluster: ClusterConfig) -> float | None:
    """Return in how many seconds a job whose tries ended so should be tried again; None: never.

    Mistakes are not retried. A try that was asked to stop costs nothing. A machine fault is retried
    with back-off up to `cluster.retries` times in a row without gain: a job that comes nearer to
    its end each time is never given up. A loss that is not finite is tried once more, for it may be
    the machine's.
    """
    last = tries[-1]
    if last.kind in _MISTAKES:
        return None
    if last.kind == "stopped":
        return 0.0
    in_vain = 0
    for before, after in zip([None, *tries[:-1]], tries, strict=True):
        gained = before is not None and after.saved > before.saved
        in_vain = 0 if after.kind == "stopped" else 1 if gained else in_vain + 1
    nan_again = in_vain > 1 and last.kind == tries[-2].kind == "nan"
    if nan_again or in_vain > cluster.retries:
        return None
    doublings = min(in_vain - 1, 20)  # more would overflow a float in the end
    return min(cluster.backoff * 2**doublings, _LONGEST_BACKOFF)


class Driver:
    """Drives one cycle on one engine."""

    def __init__(
        self,
        cycle: Cycle,
        engine: Engine,
        *,
        say: Callable[[str], None] = lambda text: None,
        now: Callable[[], float] = time.time,
        settle: float = 10.0,
        records: Records | None = None,
    ) -> None:
        """Read what is done already.

        `settle` is how long after a job's end its outcome may still be on its way over a shared
        disk.
        """
        self.cycle, self.engine, self.say, self.now, self.settle = cycle, engine, say, now, settle
        self.root = Path(cycle.config.forest_root)
        self.records = records or Records(self.root)
        self.cluster = cycle.config.cluster
        self._shown, self._cancelled = 0.0, False
        self._read()

    def _read(self) -> None:
        """Learn from the disk what is done and what has failed."""
        jobs = self.cycle.jobs
        self.tasks = {job.name: Task(job) for job in jobs}
        self.waiting = Waiting(jobs)
        self.active: dict[str, Task] = {}
        self.ready: dict[str, Task] = {}
        self.tries = self.records.outcomes(self.cycle.id)
        for name, attempt in self.records.attempts().items():
            if name in self.tasks:
                self.tasks[name].attempt = attempt
        self._enter(jobs)

    def adopt(self, running: dict[str, tuple[str, int]]) -> None:
        """Take over tries that an earlier driver submitted: {job: (id, try)}."""
        for name, (id, attempt) in running.items():
            task = self.tasks.get(name)
            if task is not None and task.state not in ("done", "submitted"):
                task.state, task.id, task.attempt, task.engine_state = (
                    "submitted",
                    id,
                    attempt,
                    "queued",
                )
                self.ready.pop(name, None)
                self.active[name] = task

    def tick(self) -> bool:
        """Look at everything once and start what may start; return whether nothing is left to
        do.
        """
        self.look()
        self._retry()
        self._requests()
        self._show(False)  # to submit may take a while: an engine begins, Slurm is away
        self._submit()
        finished = not self.active and not self.ready
        self._show(finished)
        return finished

    def counts(self) -> Counter[State]:
        """Return how many jobs are in each state."""
        return Counter(task.state for task in self.tasks.values())

    def _enter(self, jobs: Sequence[Job]) -> None:
        """Sort the jobs into done, failed and ready, as the disk has it."""
        elms = self._elms()
        for job in self.waiting.start():
            self._make_ready(self.tasks[job.name])
        for job in jobs:
            task = self.tasks[job.name]
            tries = self.tries.get(job.name, [])
            if self._stands(job, elms, tries):
                self._done(task)
            elif tries and tries[-1].kind != "blocked" and retry_after(tries, self.cluster) is None:
                self._fail(task, tries[-1])

    def _stands(self, job: Job, elms: set[str], tries: Sequence[Outcome]) -> bool:
        if job.verb in ("seed", "train"):
            return job.elm in elms
        return bool(tries) and tries[-1].kind == "done"

    def _elms(self) -> set[str]:
        return set(Forest(self.root).names()) if Forest.stands(self.root) else set()

    def look(self) -> None:
        """See which submitted tries have ended, and how."""
        if not self.active:
            return
        statuses = self.engine.poll([task.id for task in self.active.values()])
        ended, elms = self.records.ended(), self._elms()
        for task in list(self.active.values()):
            status = statuses.get(task.id)
            if status is not None and status.state != "unknown":
                task.engine_state, task.message = status.state, status.reason
            if (task.job.name, task.attempt) in ended:
                outcome = self.records.outcome(task.job.name, task.attempt)
                if outcome is not None:
                    self._ended(task, outcome, elms)
            elif status is not None and status.state == "ended":
                self._silent(task, status.reason, elms)
            else:
                task.missing_since = 0.0

    def _silent(self, task: Task, reason: str, elms: set[str]) -> None:
        """Deal with a try that the engine says has ended, and that said nothing itself."""
        now = self.now()
        if task.job.verb in ("seed", "train") and task.job.elm in elms:
            return self._done(task)
        task.missing_since = task.missing_since or now
        if now - task.missing_since < self.settle:
            return
        outcome = Outcome(
            self.cycle.id,
            task.job.name,
            task.attempt,
            "stopped" if self._cancelled else "lost",
            f"the job ended and left no outcome ({reason or 'no reason given'})",
            self.records.saved(task.job),
            ended=now,
        )
        self.records.write_outcome(outcome)
        self._ended(task, outcome, elms)

    def _ended(self, task: Task, outcome: Outcome, elms: set[str]) -> None:
        name = task.job.name
        del self.active[name]
        task.missing_since = 0.0
        makes_elm = task.job.verb in ("seed", "train")
        stands = makes_elm and (task.job.elm in elms or task.job.elm in self._elms())
        if outcome.kind == "done" and makes_elm and not stands:
            outcome = replace(
                outcome, kind="lost", message="said it was done, but its ELM is not in the forest"
            )
        self.tries.setdefault(name, []).append(outcome)
        if outcome.kind == "done" or stands:
            return self._done(task)
        delay = retry_after(self.tries[name], self.cluster)
        if outcome.kind == "stopped" and self._cancelled:
            task.state, task.message = "cancelled", "cancelled"
        elif delay is None:
            self._fail(task, outcome)
        elif self.waiting.waits(task.job):  # it was submitted ahead, by a detached cycle
            task.state, task.message = "waiting", f"{outcome.kind}: {outcome.message}"
        else:
            self.say(f"{name}: {outcome.kind}: {outcome.message}; next try in {delay:g} s")
            self._make_ready(task, self.now() + delay)
            task.message = f"{outcome.kind}: {outcome.message}"

    def _done(self, task: Task) -> None:
        if task.state == "done":
            return
        self._leave(task)
        task.state, task.message = "done", ""
        for job in self.waiting.done(task.job.name):
            if self.tasks[job.name].state in ("waiting", "blocked"):
                self._make_ready(self.tasks[job.name])

    def _fail(self, task: Task, outcome: Outcome) -> None:
        self._leave(task)
        task.state, task.message = "failed", f"{outcome.kind}: {outcome.message}"
        self.say(f"{task.job.name} failed: {outcome.message}")
        self._block(task.job.name)

    def _block(self, name: str) -> None:
        """Give up what needs a failed job; the last step evaluates whatever does stand."""
        stack = [name]
        while stack:
            failed = stack.pop()
            for job in self.waiting.behind(failed):
                task = self.tasks[job.name]
                if job.verb == "finish":
                    if not self.waiting.done(failed):
                        continue  # other scores are still to come
                    if task.state == "submitted":
                        continue
                    if any(self.tasks[need].state == "done" for need in job.needs):
                        self._make_ready(task)
                        continue
                if task.state in ("waiting", "ready"):
                    self._leave(task)
                    task.state, task.message = "blocked", f"needs {failed}"
                    stack.append(job.name)

    def _make_ready(self, task: Task, not_before: float = 0.0) -> None:
        task.state, task.not_before = "ready", not_before
        self.ready[task.job.name] = task

    def _leave(self, task: Task) -> None:
        self.active.pop(task.job.name, None)
        self.ready.pop(task.job.name, None)

    def cancel_all(self) -> None:
        """Stop what runs, after a checkpoint; a try that ends now, however, counts as stopped."""
        self._cancelled = True
        self.engine.cancel([task.id for task in self.active.values()])

    def _retry(self) -> None:
        """Obey `btm run --retry-failed`, which leaves a file: what failed is tried again, what runs
        goes on.
        """
        file = self.records.files.retry
        if file.exists():
            running = {name: (task.id, task.attempt) for name, task in self.active.items()}
            self.records.forgive(self.cycle.id)
            self._read()
            self.adopt(running)
            file.unlink(missing_ok=True)

    def _requests(self) -> None:
        """Obey `btm cancel`, which leaves a file named after a job, or `all`."""
        folder = self.records.files.cancel
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if not names:
            return
        self._cancelled = self._cancelled or "all" in names
        for name, task in list((self.active | self.ready).items()):
            if "all" not in names and name not in names:
                continue
            if name in self.ready:
                self._leave(task)
                task.state, task.message = "cancelled", "cancelled"
            else:  # at every look: Slurm may have been away at the last
                self.engine.cancel([task.id])
                task.message = "cancelling"
        if "all" not in names:
            for name in names & self.tasks.keys():
                task = self.tasks[name]
                if task.state not in ("done", "failed"):
                    # what the cancelled try will still say must not overwrite this
                    task.attempt += 1
                    outcome = Outcome(
                        self.cycle.id,
                        name,
                        task.attempt,
                        "cancelled",
                        "cancelled",
                        ended=self.now(),
                    )
                    self.records.write_outcome(outcome)
                    self._leave(task)
                    self._fail(task, outcome)
                (folder / name).unlink(missing_ok=True)

    def _submit(self) -> None:
        """Submit every job that is ready and whose back-off is over, those of one verb together."""
        now = self.now()
        groups: dict[Verb, list[Task]] = {}
        for task in self.ready.values():
            if task.not_before <= now:
                groups.setdefault(task.job.verb, []).append(task)
        for verb, tasks in groups.items():
            specs = [
                Spec(str(self.root), self.cycle.id, task.job, task.attempt + 1) for task in tasks
            ]
            try:
                ids = self.engine.submit(
                    specs, Resources.of(self.cluster, verb, self.cycle.config.trainer.device)
                )
            except UserError as error:
                for task in tasks:
                    task.attempt += 1
                    outcome = Outcome(
                        self.cycle.id, task.job.name, task.attempt, "mistake", str(error), ended=now
                    )
                    self.records.write_outcome(outcome)
                    self._fail(task, outcome)
                continue
            for task, spec, id in zip(tasks, specs, ids, strict=False):
                if not id:
                    continue
                del self.ready[task.job.name]
                task.state, task.id, task.attempt, task.engine_state = (
                    "submitted",
                    id,
                    spec.attempt,
                    "queued",
                )
                task.message = ""
                self.active[task.job.name] = task

    def snapshot(self) -> dict[str, Any]:
        """Return what is known of every job, for those who watch."""
        rows = {
            name: {
                "state": task.engine_state if task.state == "submitted" else task.state,
                "try": task.attempt,
                "id": task.id,
                "message": task.message,
            }
            for name, task in self.tasks.items()
        }
        return {
            "cycle": self.cycle.id,
            "finished": not self.active and not self.ready,
            "counts": dict(self.counts()),
            "jobs": rows,
        }

    def _show(self, finished: bool) -> None:
        """Keep state.json true for those who watch."""
        now = time.time()
        every = _SHOW_EVERY + len(self.tasks) / 500
        if not finished and now - self._shown < every:
            return
        self._shown = now
        show_file(self.records.files.state, self.snapshot())
