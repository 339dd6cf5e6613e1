"""The last cycle of a forest as its records tell it: every try with its begin, end and outcome."""

from collections.abc import Iterator
from pathlib import Path

from btm.errors import UserError
from btm.launch import attach
from btm.launch.jobs import Job
from btm.launch.records import CycleState, Outcome, Records, read_json, read_shown
from btm.launch.view import JobView, ordered, views
from btm.report.progress import duration
from btm.steps.report import Cycle as Told
from btm.steps.report import JobRow, Try

_RUNNING = "running"


def told(root: Path, state: CycleState | None = None) -> Told | None:
    """Tell the last cycle of the forest at `root`; None if no records of one stand.

    Slurm is not asked: without the `state` that who has asked it knows, a job that it holds and
    that has not begun is among those that wait.
    """
    records = Records(root)
    state = state or read_shown(records.files.state)
    if state is None:
        return None
    try:
        cycle = records.read_cycle(state["cycle"])
    except (UserError, KeyError, TypeError):
        return None  # of another btm, or deleted
    jobs = {job.name: job for job in cycle.jobs}
    tries = [*_ended(records, cycle.id, jobs), *_running(records, state, jobs)]
    tries.sort(key=lambda each: (each.begun, each.job))
    begun = {each.job for each in tries}
    said = "at work" if attach.driver_runs(records) else "stopped"
    return Told(
        cycle.id,
        attach.at_rest(state) if state["finished"] else said,
        cycle.config.cluster.kind,
        tries,
        [name for name in jobs if name not in begun],
        [_row(each) for each in ordered(views(records, state, jobs))],
    )


def _row(job: JobView) -> JobRow:
    """Make the row of a job, with the words that btm watch has for it."""
    row, rate = job.to_row(), job.tokens_per_second
    left = None if job.eta_seconds is None else duration(job.eta_seconds)
    speed = None if rate is None else round(rate)
    step = str(row["step"])
    return JobRow(
        job.name, job.state, job.attempt, step, job.loss, speed, left, job.parents, job.message
    )


def _ended(records: Records, cycle: str, jobs: dict[str, Job]) -> Iterator[Try]:
    """Yield the tries that have an outcome, those that were forgiven too."""
    for outcome in [*outcomes_in(records.files.outcomes), *outcomes_in(records.files.forgiven)]:
        if outcome.cycle != cycle or outcome.job not in jobs:
            continue
        shown = read_shown(records.progress(outcome.job, outcome.attempt)) or {}
        begun = _moment(shown) or outcome.ended - outcome.seconds
        yield Try(
            outcome.job,
            jobs[outcome.job].verb,
            outcome.attempt,
            outcome.kind,
            min(begun, outcome.ended),
            outcome.ended,
            outcome.message,
        )


def _running(records: Records, state: CycleState, jobs: dict[str, Job]) -> Iterator[Try]:
    """Yield the tries that run."""
    ended = records.ended()
    for name, job in state["jobs"].items():
        if job["state"] != _RUNNING or name not in jobs or (name, job["try"]) in ended:
            continue
        file = records.progress(name, job["try"])
        begun = _moment(read_shown(file) or {})
        if begun is not None:
            last = file.stat().st_mtime if file.exists() else begun
            yield Try(name, jobs[name].verb, job["try"], _RUNNING, begun, max(begun, last))


def _moment(shown: dict[str, object]) -> float | None:
    begun = shown.get("started")
    return float(begun) if isinstance(begun, int | float) else None


def outcomes_in(folder: Path) -> Iterator[Outcome]:
    """Read the outcomes in a folder; a file that is none is passed over."""
    for file in sorted(folder.glob("[!.]*.json")):
        try:
            yield Outcome(**read_json(file))
        except (UserError, TypeError):
            continue
