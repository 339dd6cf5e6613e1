"""The driver of a cycle: reads the disk and the engine, and starts jobs until none is left.

It has no memory that matters. Killed at any moment, a new one reads the forest, the outcomes and
the engine's running jobs, and goes on; a running job is never submitted again.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from btm.config.cluster import ClusterConfig
from btm.errors import UserError
from btm.forest import Forest
from btm.launch.engine import Engine, Resources
from btm.launch.jobs import Job, Verb, Waiting
from btm.launch.records import (
    Cycle,
    CycleState,
    JobState,
    Kind,
    Outcome,
    Records,
    Spec,
    show_file,
)
from btm.system.notes import note

State = Literal["waiting", "ready", "submitted", "done", "failed", "blocked", "cancelled"]
FINAL: tuple[State, ...] = ("done", "failed", "blocked", "cancelled")

_MISTAKES: tuple[Kind, ...] = ("mistake", "blocked", "cancelled")
_LONGEST_BACKOFF = 600.0  # seconds
_SHOW_EVERY = 0.5  # seconds between updates of state.json, more with thousands of jobs


@dataclass
class Task:
    """A job, and its state as the driver knows it."""

    job: Job
    state: State = "waiting"
    attempt: int = 0
    id: str = ""
    message: str = ""
    not_before: float = 0.0  # seconds since 1970, after a back-off
    engine_state: str = ""
    missing_since: float = 0.0  # when the engine first called it ended, while no outcome came

    def submitted(self, id: str, attempt: int) -> None:
        """Mark the job as handed to the engine under `id`."""
        self.state, self.engine_state = "submitted", "queued"
        self.id, self.attempt = id, attempt


def retry_after(tries: Sequence[Outcome], cluster: ClusterConfig) -> float | None:
    """Return the seconds after which a job with these tries is tried again; None: never.

    Mistakes are not retried. A try that was asked to stop costs nothing. A machine fault is retried
    with back-off up to `cluster.retries` times in a row without gain: a job that comes nearer to
    its end each time is never given up. A loss that is not finite is tried once more, since the
    machine may have caused it.
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
    doublings = min(in_vain - 1, 20)  # many more would overflow a float
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
        """Read the finished work from the disk.

        `settle` is the number of seconds after a job's end in which its outcome may still be on its
        way over a shared disk.
        """
        self.cycle, self.engine, self.say, self.now, self.settle = cycle, engine, say, now, settle
        self.root = Path(cycle.config.forest_root)
        self.records = records or Records(self.root)
        self.cluster = cycle.config.cluster
        self._shown, self._cancelled = 0.0, False
        self._read()

    def _read(self) -> None:
        """Read from the disk which jobs are done and which have failed."""
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
                task.submitted(id, attempt)
                self.ready.pop(name, None)
                self.active[name] = task

    def tick(self) -> bool:
        """Look at everything once and start ready jobs; return whether the cycle is finished.

        Raises `UserError` if nothing runs and the engine has taken no jobs for too long.
        """
        self.look()
        self._retry()
        self._requests()
        self._show(False)  # before submitting, which may take long (imports, a slow Slurm)
        self._submit()
        finished = not self.active and not self.ready
        self._show(finished)
        if self.ready and not self.active and (why := self.engine.given_up()):
            raise UserError(why)
        return finished

    def counts(self) -> Counter[State]:
        """Count the jobs in each state."""
        return Counter(task.state for task in self.tasks.values())

    def _enter(self, jobs: Sequence[Job]) -> None:
        """Sort the jobs into done, failed and ready, as recorded on disk."""
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
        """Find the submitted tries that have ended, and record how."""
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
        """Handle a try that the engine calls ended and that has recorded no outcome."""
        now = self.now()
        if task.job.verb in ("seed", "train") and task.job.elm in elms:
            return self._done(task)
        task.missing_since = task.missing_since or now
        if now - task.missing_since < self.settle:
            return
        # Recorded on behalf of the try, so that its number is used up and never run again.
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
        # The forest is the truth: an ELM that stands is done, whatever its outcome says.
        stands = makes_elm and (task.job.elm in elms or task.job.elm in self._elms())
        if outcome.kind == "done" and makes_elm and not stands:
            message = "said it was done, but its ELM is not in the forest"
            outcome = replace(outcome, kind="lost", message=message)
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
        """Give up the jobs that need a failed one; the last step evaluates whatever stands."""
        stack = [name]
        while stack:
            failed = stack.pop()
            for job in self.waiting.behind(failed):
                task = self.tasks[job.name]
                if job.verb == "finish":
                    if not self.waiting.done(failed):
                        continue  # other scores are still open
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
        """Stop all running jobs after a checkpoint; tries that end from now on count as stopped."""
        self._cancelled = True
        self.engine.cancel([task.id for task in self.active.values()])

    def _retry(self) -> None:
        """Carry out `btm run --retry-failed`, which leaves a file: try failed jobs again.

        Running jobs go on.
        """
        file = self.records.files.retry
        if file.exists():
            running = {name: (task.id, task.attempt) for name, task in self.active.items()}
            self.records.forgive(self.cycle.id)
            self._read()
            self.adopt(running)
            file.unlink(missing_ok=True)

    def _requests(self) -> None:
        """Carry out `btm cancel`, which leaves a file named after a job, or `all`."""
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
            else:  # at every look, since Slurm may not have answered the last time
                self.engine.cancel([task.id])
                task.message = "cancelling"
        if "all" not in names:
            for name in names & self.tasks.keys():
                task = self.tasks[name]
                if task.state not in ("done", "failed"):
                    # A number of its own: the cancelled try may still record an outcome, which
                    # must not overwrite this one.
                    task.attempt += 1
                    how: Kind = "cancelled"
                    outcome = Outcome(
                        self.cycle.id, name, task.attempt, how, message=how, ended=self.now()
                    )
                    self.records.write_outcome(outcome)
                    self._leave(task)
                    self._fail(task, outcome)
                (folder / name).unlink(missing_ok=True)

    def _submit(self) -> None:
        """Submit every ready job whose back-off is over, the jobs of one verb together."""
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
                resources = Resources.of(self.cluster, verb, self.cycle.config.trainer.device)
                ids = self.engine.submit(specs, resources)
            except UserError as error:  # it can never run: no machine has what it asks for
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
                task.submitted(id, spec.attempt)
                task.message = ""
                self.active[task.job.name] = task

    def snapshot(self) -> CycleState:
        """Describe every job, for those who watch."""
        rows: dict[str, JobState] = {
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
            "counts": {str(state): count for state, count in self.counts().items()},
            "jobs": rows,
        }

    def _show(self, finished: bool) -> None:
        """Keep state.json up to date for those who watch."""
        now = time.time()
        every = _SHOW_EVERY + len(self.tasks) / 500
        if not finished and now - self._shown < every:
            return
        self._shown = now
        try:
            show_file(self.records.files.state, self.snapshot())
        except OSError as error:
            note(f"{self.records.files.state}: {error.strerror}: btm status has no news")
