"""What a cycle leaves in ``<forest>/jobs``: its settings, its submissions, the outcome of every
try.

    cycles/<hash>.json             settings and rounds: what a job reads to know what to do
    submissions/<id>.json          what was handed to Slurm, written before and completed after
    outcomes/<job>.<try>.json      how a try ended
    progress/<job>.<try>.json      the sign of life of a running try
    logs/<job>.<try>.log           what it printed
    state.json                     what the driver last saw, for those who watch

Everything but the sign of life and state.json is published durably. All of it can be deleted once a
cycle is finished: what is done is what stands in the forest.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from btm.config.schema import Config
from btm.errors import UserError
from btm.launch.jobs import Job, jobs_of
from btm.system import durable, lease

# How a try can end. `stopped` was asked to (preemption, time limit, cancel) and saved before.
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
    """How one try at a job ended."""

    cycle: str
    job: str
    attempt: int
    kind: Kind
    message: str = ""
    saved: int = 0  # how far the work on disk had come: see `Records.saved`
    seconds: float = 0.0
    ended: float = 0.0  # seconds since 1970


@dataclass(frozen=True)
class Cycle:
    """The settings of a cycle and its jobs, as every job reads them again from disk."""

    id: str
    config: Config
    rounds: list[list[str]]

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

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Spec":
        """Return the spec that `to_json` gave."""
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
        self.root = self.forest / "jobs"

    def write_cycle(self, config: Config, rounds: list[list[str]]) -> Cycle:
        """Record the settings of a cycle; the same settings give the same record."""
        values = {"config": asdict(config), "rounds": rounds}
        text = json.dumps(values, sort_keys=True)
        made = Cycle(hashlib.sha256(text.encode()).hexdigest()[:12], config, rounds)
        file = self.root / "cycles" / f"{made.id}.json"
        if not file.exists():
            durable.write_json(file, values)
        return made

    def read_cycle(self, cycle_id: str) -> Cycle:
        """Return a cycle that `write_cycle` recorded."""
        values = read_json(self.root / "cycles" / f"{cycle_id}.json")
        return Cycle(cycle_id, Config.from_dict(values["config"]), values["rounds"])

    def write_outcome(self, outcome: Outcome) -> None:
        """Record how a try ended."""
        durable.write_json(
            self.root / "outcomes" / f"{outcome.job}.{outcome.attempt}.json", asdict(outcome)
        )

    def take_back(self, outcome: Outcome) -> None:
        """Undo `write_outcome`: the try goes on after all."""
        (self.root / "outcomes" / f"{outcome.job}.{outcome.attempt}.json").unlink(missing_ok=True)

    def outcomes(self, cycle_id: str) -> dict[str, list[Outcome]]:
        """Return how the tries at each job of one cycle ended, in order."""
        found: dict[str, list[Outcome]] = {}
        for job, attempt in self._named("outcomes"):
            outcome = self.outcome(job, attempt)
            if outcome is not None and outcome.cycle == cycle_id:
                found.setdefault(job, []).append(outcome)
        return {
            job: sorted(tries, key=lambda outcome: outcome.attempt) for job, tries in found.items()
        }

    def outcome(self, job: str, attempt: int) -> Outcome | None:
        """Return how one try ended, or None if it has not, as far as the disk knows."""
        file = self.root / "outcomes" / f"{job}.{attempt}.json"
        return Outcome(**read_json(file)) if file.exists() else None

    def ended(self) -> set[tuple[str, int]]:
        """Return the (job, try) pairs that have an outcome: one look at one folder."""
        return set(self._named("outcomes"))

    def forgive(self, cycle_id: str) -> list[str]:
        """Set aside the outcomes of jobs that failed, so that they are tried again; return the
        jobs.

        The end of the cycle is then done again too, for it was done without them.
        """
        failed = [job for job, tries in self.outcomes(cycle_id).items() if tries[-1].kind != "done"]
        for job, attempt in sorted(self._named("outcomes"), key=lambda found: found[0] != "finish"):
            if failed and (job in failed or job == "finish"):
                file = self.root / "outcomes" / f"{job}.{attempt}.json"
                durable.make_folder(self.root / "forgiven")
                file.replace(self.root / "forgiven" / file.name)
        return failed

    def attempts(self) -> dict[str, int]:
        """Return the last try at each job that left a trace."""
        last: dict[str, int] = {}
        for folder in ("outcomes", "forgiven", "progress"):
            for job, attempt in self._named(folder):
                last[job] = max(attempt, last.get(job, 0))
        return last

    def log(self, job: str, attempt: int) -> Path:
        """Return where a try's output goes."""
        return self.root / "logs" / f"{job}.{attempt}.log"

    def progress(self, job: str, attempt: int) -> Path:
        """Return where a try's sign of life is."""
        return self.root / "progress" / f"{job}.{attempt}.json"

    def saved(self, job: Job) -> int:
        """Return how far the work of a job has come on disk: 0, then 1 + the step of its
        checkpoint, then more.
        """
        folder = lease.find(self.forest / "branches" / job.elm) if job.elm else None
        if folder is None:
            return 0
        if (folder / "trained.json").exists():
            return 1 << 62
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")]
        return 1 + max(steps, default=0)

    def _named(self, folder: str) -> list[tuple[str, int]]:
        try:
            names = [path.name for path in (self.root / folder).iterdir()]
        except FileNotFoundError:
            return []
        matches = (_FILE.match(name) for name in names if not name.startswith("."))
        return [(match["job"], int(match["attempt"])) for match in matches if match]


def show_file(path: Path, value: Any) -> None:
    """Replace a file that people watch: never half of it, but not durable, for nothing depends on
    it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f".tmp-{durable.writer()}-shown"
    )  # a name that `durable.sweep` knows
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def read_shown(path: Path) -> Any:
    """Return what `show_file` wrote, or None."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def read_json(file: Path) -> dict[str, Any]:
    """Return a record; `UserError` if it is not there or no JSON."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable: {error}") from None
