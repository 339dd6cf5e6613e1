"""The records of a cycle in ``<forest>/jobs``: its settings, submissions and outcomes.

    cycles/<hash>.json             settings and rounds, which a job reads
    submissions/<id>.json          what was handed to Slurm, written before and completed after
    outcomes/<job>.<try>.json      how a try ended
    progress/<job>.<try>.json      the sign of life of a running try
    logs/<job>.<try>.log           what it printed
    state.json                     the driver's last state, for those who watch

Everything but the sign of life and state.json is published durably. All of it can be deleted once a
cycle is finished: finished work is what stands in the forest.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from btm.config.schema import Config
from btm.config.validation import from_dict
from btm.errors import UserError
from btm.forest.job_paths import JobPaths
from btm.forest.paths import ModelFolder, Paths, step_of
from btm.launch.jobs import Job, jobs_of
from btm.steps.standing import Text
from btm.system import durable, lease
from btm.system.json_files import Json

# How a try can end; `stopped`: asked to (preemption, time limit, cancel), after a checkpoint.
Kind = Literal[
    "done",
    "mistake",
    "blocked",
    "nan",
    "stopped",
    "fault",
    "killed",
    "oom",
    "hang",
    "lost",
    "cancelled",
]
_FILE = re.compile(r"^(?P<job>.+)\.(?P<attempt>\d+)\.json$")


@dataclass(frozen=True)
class Outcome:
    """The end of one try at a job."""

    cycle: str
    job: str
    attempt: int
    kind: Kind
    message: str = ""
    saved: int = 0  # progress on disk: see `Records.saved`
    seconds: float = 0.0
    ended: float = 0.0  # seconds since 1970


# A job in state.json; its state is the engine's word while it is submitted.
JobState = TypedDict("JobState", {"state": str, "try": int, "id": str, "message": str})


class CycleState(TypedDict):
    """The driver's last state of a cycle, as state.json holds it."""

    cycle: str
    finished: bool
    counts: dict[str, int]  # jobs by state
    jobs: dict[str, JobState]


@dataclass(frozen=True)
class Cycle:
    """The settings and jobs of a cycle, as every job reads them again from disk."""

    id: str
    config: Config
    rounds: list[list[str]]
    text: Text = field(default_factory=dict)  # as it was prepared; empty: an older btm's cycle

    @property
    def jobs(self) -> list[Job]:
        """All its jobs, each after those it needs."""
        return jobs_of(self.config, self.rounds)


@dataclass(frozen=True)
class Spec:
    """One try at one job, as it is handed to a worker."""

    forest: str
    cycle: str
    job: Job
    attempt: int

    def to_json(self) -> Json:
        """Convert to JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Json) -> "Spec":
        """Restore a spec that `to_json` converted."""
        job = values["job"] | {key: tuple(values["job"][key]) for key in ("needs", "among")}
        job["together"] = tuple(job.get("together", ()))  # older specs have none
        return cls(values["forest"], values["cycle"], Job(**job), values["attempt"])


@dataclass
class Records:
    """The folder ``jobs`` of a forest."""

    forest: Path
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        """Place the folder."""
        self.root = self.files.root

    @property
    def files(self) -> JobPaths:
        """Its files and folders."""
        return Paths(self.forest).jobs

    def write_cycle(
        self, config: Config, rounds: list[list[str]], text: Text | None = None
    ) -> Cycle:
        """Record the settings of a cycle and its text; equal ones give the same record."""
        values: Json = {"config": asdict(config), "rounds": rounds}
        values |= {"text": text} if text else {}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        made = Cycle(digest[:12], config, rounds, text or {})
        file = self.files.cycle(made.id)
        if not file.exists():
            durable.write_json(file, values)
        return made

    def read_cycle(self, cycle_id: str) -> Cycle:
        """Read a cycle that `write_cycle` recorded."""
        values = read_json(self.files.cycle(cycle_id))
        text = values.get("text", {})
        return Cycle(cycle_id, from_dict(values["config"]), values["rounds"], text)

    def write_outcome(self, outcome: Outcome) -> None:
        """Record how a try ended."""
        durable.write_json(self.files.outcome(outcome.job, outcome.attempt), asdict(outcome))

    def take_back(self, outcome: Outcome) -> None:
        """Undo `write_outcome`: the try goes on after all."""
        self.files.outcome(outcome.job, outcome.attempt).unlink(missing_ok=True)

    def outcomes(self, cycle_id: str) -> dict[str, list[Outcome]]:
        """Read the outcomes of the tries at each job of one cycle, in order."""
        found: dict[str, list[Outcome]] = {}
        for job, attempt in self._named(self.files.outcomes):
            outcome = self.outcome(job, attempt)
            if outcome is not None and outcome.cycle == cycle_id:
                found.setdefault(job, []).append(outcome)
        for tries in found.values():
            tries.sort(key=lambda outcome: outcome.attempt)
        return found

    def outcome(self, job: str, attempt: int) -> Outcome | None:
        """Read the outcome of one try; None if none is recorded."""
        file = self.files.outcome(job, attempt)
        return Outcome(**read_json(file)) if file.exists() else None

    def ended(self) -> set[tuple[str, int]]:
        """List the (job, try) pairs that have an outcome, by one look at one folder."""
        return set(self._named(self.files.outcomes))

    def forgive(self, cycle_id: str) -> list[str]:
        """Set aside the outcomes of failed jobs, so that they are tried again; return those jobs.

        The end of the cycle is set aside too, because it was reached without them.
        """
        failed = [job for job, tries in self.outcomes(cycle_id).items() if tries[-1].kind != "done"]
        tried = self._named(self.files.outcomes)
        for job, attempt in sorted(tried, key=lambda found: found[0] != "finish"):
            if failed and (job in failed or job == "finish"):
                file = self.files.outcome(job, attempt)
                file.replace(durable.make_folder(self.files.forgiven) / file.name)
        return failed

    def reopen(self, cycle_id: str, job: str) -> None:
        """Set aside the outcomes of a job, so that it is done again."""
        for outcome in self.outcomes(cycle_id).get(job, []):
            file = self.files.outcome(job, outcome.attempt)
            file.replace(durable.make_folder(self.files.forgiven) / file.name)

    def attempts(self) -> dict[str, int]:
        """Find the number of the last try at each job that has any record."""
        last: dict[str, int] = {}
        for folder in (self.files.outcomes, self.files.forgiven, self.files.progresses):
            for job, attempt in self._named(folder):
                last[job] = max(attempt, last.get(job, 0))
        return last

    def log(self, job: str, attempt: int) -> Path:
        """Return the file of a try's output."""
        return self.files.log(job, attempt)

    def progress(self, job: str, attempt: int) -> Path:
        """Return the file of a try's sign of life."""
        return self.files.progress(job, attempt)

    def saved(self, job: Job) -> int:
        """Measure a job's progress on disk: 0, then 1 + the step of its checkpoint, then more."""
        folder = lease.find(Paths(self.forest).branch(job.elm)) if job.elm else None
        if folder is None:
            return 0
        if ModelFolder(folder).result.exists():
            return 1 << 62
        steps = [step_of(path) for path in ModelFolder(folder).checkpoints()]
        return 1 + max(steps, default=0)

    def _named(self, folder: Path) -> list[tuple[str, int]]:
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return []
        matches = (_FILE.match(name) for name in names if not name.startswith("."))
        return [(match["job"], int(match["attempt"])) for match in matches if match]


def show_file(path: Path, value: Any) -> None:
    """Replace a file for watchers in one step, but not durably, since nothing depends on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{durable.writer()}-shown")  # `durable.sweep` knows the form
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def read_shown(path: Path) -> Any:
    """Read a file that `show_file` wrote; None if it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def read_json(file: Path) -> Json:
    """Read a record; `UserError` if it is missing or no JSON."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable: {error}") from None
