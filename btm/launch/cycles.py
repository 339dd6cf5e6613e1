"""The verbs of a cycle: run, status, logs and cancel."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from btm import steps
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.errors import UserError, command, unknown
from btm.forest.suites import evaluated_suites
from btm.launch import attach
from btm.launch.board import Board
from btm.launch.container import folders_of
from btm.launch.drive import FINAL, Driver, Task
from btm.launch.engine import Resources
from btm.launch.forecast import too_few_tokens
from btm.launch.jobs import Job
from btm.launch.records import Cycle, CycleState, Records, Spec, read_shown, show_file
from btm.launch.view import views
from btm.report import ConsoleReporter
from btm.report.tables import TableRow
from btm.steps.evaluate import evaluation_stands
from btm.steps.standing import text_of
from btm.system import lease
from btm.system.notes import note
from btm.train.fairseq import training

_LOOK_EVERY = 0.5  # seconds between looks at a cycle that this process does not drive
_PAGE_EVERY = 10  # seconds between two pages, at least; of large forests one takes a while


def run(
    config: Config,
    stream: IO[str],
    *,
    detach: bool = False,
    retry: bool = False,
    regrow: bool = False,
) -> bool | None:
    """Run a cycle, or watch it if it runs; return whether all was done, or None if detached.

    With `regrow`, what stands with other settings is removed first.
    """
    cycle, records = plan(config, stream, regrow=regrow)
    if retry and attach.driver_runs(records):
        attach.request_retry(records)
    elif retry:
        records.forgive(cycle.id)
    if detach:
        _detach(cycle, records, stream)
        return None
    board = Board(stream, records)
    try:
        if config.cluster.kind == "slurm":
            state = _drive_slurm(cycle, records, board)
        else:
            state = attach.watch(records, cycle, board.show)
    except KeyboardInterrupt:
        show, stop = (command(verb, forest=config.forest_root) for verb in ("status", "cancel"))
        board.say(
            f"the jobs go on: {show} shows them, {stop} stops them, the same command watches them "
            "again"
        )
        raise
    finally:
        board.close()
    for name, job in state["jobs"].items():
        if job["state"] in ("failed", "blocked"):
            print(f"{name} {job['state']}: {job['message']}", file=stream)
    if state["counts"].get("failed"):
        failed = state["counts"]["failed"]
        print(
            f"{failed} failed; mend the cause, then the same command with --retry-failed",
            file=stream,
        )
    return all(job["state"] == "done" for job in state["jobs"].values())


def _drive_slurm(cycle: Cycle, records: Records, board: Board) -> CycleState:
    """Drive a cycle on Slurm from this process, once no other does; return its last state."""
    from btm.launch.slurm import SlurmEngine

    engine = SlurmEngine(records, cycle.config.cluster, folders_of(cycle.config), say=board.say)

    def make() -> Driver:
        driver = Driver(cycle, engine, say=board.say)
        _adopt(driver, engine)
        return driver

    if not attach.driver_runs(records):  # otherwise the request is meant for that driver
        shutil.rmtree(records.files.cancel, ignore_errors=True)
    while True:
        try:
            return attach.drive(records, make, board.show)
        except lease.HeldError:
            attach.follow(records, cycle, board.show)


def _adopt(driver: Driver, engine: Any) -> None:
    """Let `driver` take over running jobs once Slurm answers; guessing would submit them twice.

    Raises `UserError` if another cycle runs, if Slurm would never take a job of this one, or if it
    does not answer for `cluster.patience` and has no job of the forest.
    """
    from btm.launch.slurm_commands import AwayError

    while True:
        try:
            if engine.has_others(driver.cycle.id):
                raise attach.other_at_work(driver.records)
            driver.adopt(engine.in_flight(driver.cycle.id))
            engine.check(_wanted(driver))
            return engine.patience.answered()
        except AwayError as error:
            engine.patience.away(str(error), engine.submitted_before())
            _wait_for(engine)


def _wanted(driver: Driver) -> list[Resources]:
    """List the different resources of the jobs that are still to be submitted."""
    trainer, found = driver.cycle.config.trainer, []
    for verb in dict.fromkeys(task.job.verb for task in _open(driver)):
        resources = Resources.of(driver.cluster, verb, trainer.device)
        if resources not in found:
            found.append(resources)
    return found


def _open(driver: Driver) -> list[Task]:
    return [task for task in driver.tasks.values() if task.state not in (*FINAL, "submitted")]


def _wait_for(engine: Any) -> None:
    """Sleep until Slurm is asked again; raise `UserError` once it has been waited for enough."""
    if why := engine.given_up():
        raise UserError(why)
    engine.wait(engine.cluster.poll)


def _detach(cycle: Cycle, records: Records, stream: IO[str]) -> None:
    """Start a cycle and leave it; on Slurm, submit all jobs with their dependencies."""
    if attach.driver_runs(records):
        return attach.require_same(records, cycle)
    if cycle.config.cluster.kind == "local":
        return attach.start_and_leave(records, cycle)
    try:
        with attach.sole_driver(records):
            _submit_all(cycle, records, stream)
    except lease.HeldError:
        attach.require_same(records, cycle)


def _submit_all(cycle: Cycle, records: Records, stream: IO[str]) -> None:
    """Submit to Slurm all jobs that are not done, failed or in flight, stage after stage."""
    from btm.launch.slurm import SlurmEngine

    def say(text: str) -> None:
        print(text, file=stream, flush=True)

    engine = SlurmEngine(records, cycle.config.cluster, folders_of(cycle.config), say=say)
    driver = Driver(cycle, engine, say=say)
    _adopt(driver, engine)
    _until_settled(driver)
    running = {name: (task.id, task.attempt) for name, task in driver.active.items()}
    after: list[str] = []
    for stage in stages(cycle):
        flying = [running[job.name][0] for job in stage if job.name in running]
        open_jobs = [job for job in stage if driver.tasks[job.name].state not in FINAL]
        new = [job for job in open_jobs if job.name not in running]
        specs = [
            Spec(str(records.forest), cycle.id, job, driver.tasks[job.name].attempt + 1)
            for job in new
        ]
        ids: list[str] = []
        if specs:
            resources = Resources.of(cycle.config.cluster, new[0].verb, cycle.config.trainer.device)
            ids = _submit_patiently(engine, specs, resources, after)
        pairs = zip(specs, ids, strict=False)  # no id at all if Slurm took none
        taken = {spec.job.name: (id, spec.attempt) for spec, id in pairs if id}
        if specs:
            say(f"submitted {len(taken)} x {new[0].verb}")
        driver.adopt(taken)
        if len(taken) < len(specs):
            raise UserError(engine.given_up())
        after = sorted({id.partition("_")[0] for id in [*flying, *ids] if id}) or after
    show_file(records.files.state, driver.snapshot())


def _submit_patiently(
    engine: Any, specs: list[Spec], resources: Resources, after: list[str]
) -> list[str]:
    """Submit tries, again and again while Slurm is away or full; return an id for each, or "".

    Those without an id are left over when Slurm has taken none for `cluster.patience`.
    """
    taken: dict[str, str] = {}
    while left := [spec for spec in specs if spec.job.name not in taken]:
        ids = engine.submit(left, resources, after, detached=True)
        pairs = zip(left, ids, strict=False)  # no id at all if Slurm took none
        taken |= {spec.job.name: id for spec, id in pairs if id}
        if len(taken) < len(specs):
            if engine.given_up():
                break
            engine.wait(engine.cluster.poll)
    return [taken.get(spec.job.name, "") for spec in specs]


def _until_settled(driver: Driver) -> None:
    """Look until every try that Slurm calls ended has had time to record its outcome."""
    driver.look()
    while any(task.missing_since for task in driver.active.values()):
        driver.engine.wait(1.0)
        driver.look()


def stages(cycle: Cycle) -> list[list[Job]]:
    """Group the jobs of a cycle into stages: the seed, each round, the scores, the end."""
    groups: dict[tuple[str, int], list[Job]] = {}
    for job in cycle.jobs:
        groups.setdefault((job.verb, job.round), []).append(job)
    return list(groups.values())


def plan(config: Config, stream: IO[str], *, regrow: bool = False) -> tuple[Cycle, Records]:
    """Prepare the text and record the settings of the cycle."""
    reporter, records = ConsoleReporter(stream), Records(Path(config.forest_root))
    # Text that is packed anew would stop the jobs of the cycle that is at work on it.
    if attach.driver_runs(records) and not all(
        domain.stands for domain in preparation.plan(config.data)
    ):
        raise attach.other_at_work(records)
    suite = steps.prepare(config, reporter)
    training.check(config, suite)
    config = steps.settled(config, suite, reporter)
    if regrow:
        if attach.driver_runs(records):
            raise attach.other_at_work(records)
        steps.regrow(config, suite, reporter)
    rounds = steps.rounds(config, suite, reporter.line)
    steps.begin(config, suite, reporter)
    if advice := too_few_tokens(config):
        reporter.line(f"note: {advice}")
    cycle = records.write_cycle(config, rounds, text_of(evaluated_suites(config)))
    if not attach.driver_runs(records) and not evaluation_stands(config):
        records.reopen(cycle.id, "finish")  # of other ELMs: one was removed, or has joined since
    return cycle, records


def status(config: Config) -> tuple[list[TableRow], str]:
    """Make a table of the jobs of the forest's last cycle, and its title."""
    records = Records(Path(config.forest_root))
    state = _state(records)
    jobs = {job.name: job for job in records.read_cycle(state["cycle"]).jobs}
    return _rows(records, state, jobs), _title(records, state)


def _title(records: Records, state: CycleState) -> str:
    """Say how a cycle stands."""
    alive = (
        "at work" if not state["finished"] and _at_work(records, state) else attach.at_rest(state)
    )
    counts = ", ".join(f"{count} {state}" for state, count in sorted(state["counts"].items()))
    goes_on = "" if alive in ("at work", "finished") else "; btm run with the same words goes on"
    return f"cycle {state['cycle']} in {records.forest}: {alive}; {counts}{goes_on}"


def watch(
    config: Config,
    stream: IO[str],
    each: Callable[[list[TableRow]], None] | None = None,
    page: Callable[[int, CycleState], None] | None = None,
) -> str:
    """Show the forest's cycle until nobody works on it any more; return how it stands then.

    On a terminal `stream` has a table that is redrawn, else a line for each change. With `each`,
    that is called with the rows of every look that differs from the one before, and nothing is
    shown. `page` is called with the seconds until it is called again, and last with 0, and the
    state. `UserError` if no cycle has run.
    """
    records = Records(Path(config.forest_root))
    state, told = _state(records), None
    cycle = records.read_cycle(state["cycle"])
    jobs = {job.name: job for job in cycle.jobs}
    board, due = None if each else Board(stream, records, jobs), 0.0
    try:
        while True:
            if page is not None and time.monotonic() >= due:
                begun = time.monotonic()
                page(_PAGE_EVERY, state)
                due = begun + max(_PAGE_EVERY, 10 * (time.monotonic() - begun))
            if board is not None:
                board.show(state)
            elif each is not None and (rows := _rows(records, state, jobs)) != told:
                each(rows)
                told = rows
            if state["finished"] or not _at_work(records, state):
                return _title(records, state)
            time.sleep(_LOOK_EVERY if attach.driver_runs(records) else cycle.config.cluster.poll)
            state = _state(records)
    except KeyboardInterrupt:
        if board is not None:
            board.say(f"the jobs go on: {command('cancel', forest=config.forest_root)} stops them")
        raise
    finally:
        if board is not None:
            board.close()
        if page is not None:
            page(0, state)


def _rows(records: Records, state: CycleState, jobs: Mapping[str, Job]) -> list[TableRow]:
    return [each.to_row() for each in views(records, state, jobs)]


def _at_work(records: Records, state: CycleState) -> bool:
    """Tell whether a driver, or Slurm without one, still works for the forest."""
    on_slurm = records.read_cycle(state["cycle"]).config.cluster.kind == "slurm"
    return attach.driver_runs(records) or (on_slurm and bool(state["counts"].get("submitted")))


def _state(records: Records) -> CycleState:
    """Return the driver's last state; for jobs on Slurm without a driver, the state now.

    If Slurm does not answer, it is the last state.
    """
    state = read_shown(records.files.state)
    if state is None:
        raise UserError(f"no cycle has run in {records.forest}; start one with: btm run")
    cycle = records.read_cycle(state["cycle"])
    if attach.driver_runs(records) or cycle.config.cluster.kind != "slurm":
        return state
    driver = _watcher(records, cycle)
    if driver is None:
        return state
    driver.look()
    return driver.snapshot()


def _watcher(records: Records, cycle: Cycle) -> Driver | None:
    """Make a driver that knows what runs on Slurm and submits nothing.

    None if Slurm is away, or this machine has no commands of it.
    """
    from btm.launch.slurm import SlurmEngine
    from btm.launch.slurm_commands import AwayError

    try:
        engine = SlurmEngine(records, cycle.config.cluster)
        driver = Driver(cycle, engine)
        driver.adopt(engine.in_flight(cycle.id, mend=False))
    except (AwayError, UserError):
        return None
    return driver


def log_lines(config: Config, *, follow: bool) -> Iterator[str]:
    """Yield the output of the last try of the job of `config.expert`; with `follow`, go on as it
    grows. `UserError` with the names of all jobs if there is none of that name.
    """
    records = Records(Path(config.forest_root))
    state = _state(records)
    if config.expert is None:
        names = ", ".join(job.removeprefix("train-") for job in state["jobs"])
        raise UserError(f"which one? give expert=NAME; {records.forest} has {names}")
    name = _job(records, state, config.expert)
    # Without a driver, the state of a job must be asked of Slurm, which is done less often.
    poll = records.read_cycle(state["cycle"]).config.cluster.poll
    read: Path | None = None
    position = 0
    while True:
        job = state["jobs"][name]
        logs = [records.log(name, attempt) for attempt in range(job["try"], 0, -1)]
        # A try that was submitted and has not begun has no log yet: show the one before it.
        file = next((log for log in logs if log.exists()), None)
        if file != read:
            read, position = file, 0
        if file is not None:
            with file.open(errors="replace") as handle:
                handle.seek(position)
                yield handle.read()
                position = handle.tell()
        if not follow or state["finished"] or job["state"] in FINAL:
            if file is None:
                note(f"{name} has logged nothing: it is {job['state']}")
            return
        time.sleep(0.3 if attach.driver_runs(records) else poll)
        state = _state(records)


def _job(records: Records, state: CycleState, name: str) -> str:
    """Find the job called `name`, or the job that trains the ELM of that name."""
    for job in (name, f"train-{name}"):
        if job in state["jobs"]:
            return job
    names = [job.removeprefix("train-") for job in state["jobs"]]
    raise unknown("job", name, names, str(records.root))


def cancel(config: Config) -> str:
    """End the forest's cycle and wait for it, or ask for the end of one expert's job."""
    records = Records(Path(config.forest_root))
    state = _state(records)
    if not attach.driver_runs(records):
        return _cancel_detached(records, state, config.expert)
    if config.expert is None:
        attach.request_cancel(records)
        while attach.driver_runs(records):
            time.sleep(0.1)
        saved = "what was trained is saved, and btm run goes on from there"
        return f"cancelled; {saved} ({records.forest})"
    name = _job(records, state, config.expert)
    attach.request_cancel(records, name)
    return f"cancelling {name}; btm run --retry-failed tries it again"


def _cancel_detached(records: Records, state: CycleState, elm: str | None) -> str:
    """Cancel jobs on Slurm that have no driver, and wait until they have ended."""
    names = [_job(records, state, elm)] if elm else list(state["jobs"])
    cycle = records.read_cycle(state["cycle"])
    if cycle.config.cluster.kind != "slurm":
        raise UserError(f"no cycle is at work in {records.forest}")
    driver = _watcher(records, cycle)
    if driver is None:
        raise UserError("Slurm does not answer: nothing is cancelled; try again")
    driver.look()
    for name in driver.active.keys() - names:
        del driver.active[name]
    ids = [task.id for task in driver.active.values() if task.engine_state in ("queued", "running")]
    if not ids:
        raise UserError(f"no cycle is at work in {records.forest}")
    while driver.active:
        driver.cancel_all()  # at every look, since Slurm may not have answered the last time
        driver.engine.wait(1.0)
        driver.look()
    return f"cancelled {len(ids)} jobs; btm run goes on from what they saved"
