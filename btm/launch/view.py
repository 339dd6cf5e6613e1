"""The jobs of a cycle as those who watch see them: btm status, btm watch, the table of btm run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from btm.errors import UserError, first_of
from btm.forest.branch import Branch
from btm.forest.paths import Paths
from btm.launch.jobs import Job
from btm.launch.records import CycleState, JobState, Records, read_shown
from btm.report.progress import duration
from btm.report.tables import TableRow
from btm.system import lease
from btm.system.json_files import Json

_RUNNING = "running"
NO_JOBS: Mapping[str, Job] = {}
# States of jobs from the top of a table to its end, which is cut off.
_ORDER = (
    *("running", "ended", "failed", "queued", "ready", "cancelled"),
    *("blocked", "waiting", "done"),
)


@dataclass(frozen=True)
class JobView:
    """One job: its state, and what its last try has shown of itself."""

    name: str
    state: str  # the engine's word while it is submitted
    attempt: int
    message: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None  # nats per token, of the last step that was reported
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    scored: int | None = None  # tokens
    to_score: int | None = None
    parents: str = ""  # with their weights, once it was branched; before, those it may have

    @property
    def progress(self) -> str:
        """How far it is, in words; empty where it has shown nothing."""
        if self.to_score is not None:
            return f"scored {self.scored or 0:,} of {self.to_score:,} tokens"
        if self.steps is None or self.loss is None:
            return ""
        rate, left = self.tokens_per_second or 0, duration(self.eta_seconds or 0)
        step = f"step {max(self.step or 0, 0):>6}/{self.steps}"
        return f"{step}  loss {self.loss:.3f}  {rate:,.0f} tokens/s  {left} left"

    @property
    def summary(self) -> str:
        """What it came to, in words."""
        if self.steps is not None and self.loss is not None:
            rate = f"{self.tokens_per_second or 0:,.0f} tokens/s"
            return f"{self.steps:,} steps, loss {self.loss:.3f}, {rate}"
        return f"{self.scored:,} tokens scored" if self.scored is not None else ""

    def to_row(self) -> TableRow:
        """Make a row of a table, or of --json."""
        rate = self.tokens_per_second
        return {
            "job": self.name,
            "state": self.state,
            "try": self.attempt,
            "step": "" if self.steps is None else f"{max(self.step or 0, 0)}/{self.steps}",
            "loss": self.loss,
            "tokens/s": None if rate is None else round(rate),
            "left": None if self.eta_seconds is None else duration(self.eta_seconds),
            "parents": self.parents,
            "why": self.message,
        }


def views(records: Records, state: CycleState, jobs: Mapping[str, Job] = NO_JOBS) -> list[JobView]:
    """List the jobs of a cycle, in its order; those that run with their progress.

    With its `jobs` by name, the parents of what trains, or will, are told too.
    """
    return [_view(records, name, job, jobs.get(name)) for name, job in state["jobs"].items()]


def _view(records: Records, name: str, state: JobState, job: Job | None) -> JobView:
    """Look at one job; on disk only if it runs, for a cycle may have thousands."""
    if state["state"] != _RUNNING:
        trains = job is not None and job.verb == "train"
        return shown_as(name, state, {}, first_of(job.among) if job and trains else "")
    shown = read_shown(records.progress(name, state["try"])) or {}
    return shown_as(name, state, shown, parents_of(records.forest, job) if job else "")


def shown_as(name: str, state: JobState, shown: Json, parents: str = "") -> JobView:
    """Make the view of a job whose sign of life is `shown`."""
    keys = ("step", "steps", "loss", "tokens_per_second", "eta_seconds", "scored", "to_score")
    told = {key: shown[key] for key in keys if isinstance(shown.get(key), int | float)}
    return JobView(name, state["state"], state["try"], state["message"], **told, parents=parents)


def ordered(found: list[JobView]) -> list[JobView]:
    """Order jobs for a table that is cut off at its end: what runs or failed stands first."""
    return sorted(found, key=lambda each: _ORDER.index(each.state))


def parents_of(root: Path, job: Job) -> str:
    """Name the parents of the ELM that a job trains, with their weights once it was branched."""
    if job.verb != "train":
        return ""
    folder = lease.find(Paths(root).branch(job.elm))
    if folder is not None:
        try:
            parents = Branch(folder).parents
        except (UserError, OSError):  # it is being made, or was merged just now
            parents = {}
        if parents:
            return first_of([f"{name} {parent.weight:.2g}" for name, parent in parents.items()])
    return first_of(job.among)
