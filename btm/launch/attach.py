"""Starting, watching and cancelling a cycle from any process (`btm run`, `status`, `cancel`)."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from btm.errors import UserError, command
from btm.forest import Forest
from btm.launch.drive import Driver
from btm.launch.records import Cycle, CycleState, Records, read_shown
from btm.system import durable, lease

_LOOK_EVERY = 0.1  # seconds
_STARTS_WITHIN = 20.0  # seconds that a driver may take to take its lease
_RESTARTS = 5  # of a driver that dies, before `watch` gives up
Show = Callable[[CycleState], None]


def driver_runs(records: Records) -> bool:
    """Tell whether a driver of this forest is alive."""
    return lease.held(records.files.driver)


@contextmanager
def sole_driver(records: Records) -> Iterator[lease.Lease]:
    """Hold the forest's only driver lease; `lease.HeldError` if another driver is at work."""
    durable.make_folder(records.root)
    if lease.find(records.files.driver) is None:
        records.files.driver.mkdir(exist_ok=True)
    held = lease.take(records.files.driver)
    try:
        yield held
    finally:
        held.release()


def drive(
    records: Records,
    make: Callable[[], Driver],
    show: Show = lambda state: None,
) -> CycleState:
    """Drive a cycle in this process until it is finished; return its last state.

    Raises `lease.HeldError` if another driver is at work in the forest.
    """
    with sole_driver(records) as held:
        _sweep(records)
        driver = make()
        while not driver.tick():
            held.beat()
            show(driver.snapshot())
            driver.engine.wait(driver.cluster.poll)
        # A cancelled try may still be saving, and a worker dies with its driver.
        driver.engine.close(held.beat)
        show(driver.snapshot())
        _sweep(records)  # again: processes killed meanwhile have left files too
        return driver.snapshot()


def _sweep(records: Records) -> None:
    """Delete temporary files of killed processes in the records and in a planted forest."""
    for folder in (records.root, *records.root.iterdir()):
        durable.sweep(folder)
    if Forest.stands(records.forest):
        Forest(records.forest).sweep()


def start(records: Records, cycle: Cycle) -> None:
    """Start a driver of `cycle` on this machine, in a process and a session of its own."""
    shutil.rmtree(records.files.cancel, ignore_errors=True)
    records.files.state.unlink(missing_ok=True)
    durable.make_folder(records.files.driver_log.parent)
    with records.files.driver_log.open("ab") as output:
        subprocess.run(
            [sys.executable, "-m", "btm.launch", str(records.forest), cycle.id],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            check=True,
        )


def start_and_leave(records: Records, cycle: Cycle) -> None:
    """Start a driver and return once its state can be shown; `UserError` if that takes too long."""
    start(records, cycle)
    begun = time.monotonic()
    while not records.files.state.exists():
        if time.monotonic() - begun > _STARTS_WITHIN:
            raise UserError(f"the driver did not start; see {records.files.driver_log}")
        time.sleep(_LOOK_EVERY)


def watch(records: Records, cycle: Cycle, show: Show) -> CycleState:
    """Show a cycle until it is finished, replacing a driver that dies; return its last state.

    Raises `UserError` if another cycle is at work in the forest.
    """
    if not driver_runs(records):
        start(records, cycle)
    begun, restarts = time.monotonic(), 0
    while True:
        # Asked before its state is read: a driver that ends in between has left its last word.
        runs = driver_runs(records)
        state = _look(records, cycle, show)
        if not runs and state and state["finished"]:
            return state
        if not runs and time.monotonic() - begun > _STARTS_WITHIN:
            if restarts == _RESTARTS:
                raise UserError(f"the driver died {restarts} times; see {records.files.driver_log}")
            restarts, begun = restarts + 1, time.monotonic()
            start(records, cycle)
        time.sleep(_LOOK_EVERY)


def follow(records: Records, cycle: Cycle, show: Show) -> None:
    """Show the state of a driver in another process until that process is gone.

    Raises `UserError` if it drives another cycle.
    """
    while driver_runs(records):
        _look(records, cycle, show)
        time.sleep(_LOOK_EVERY)


def require_same(records: Records, cycle: Cycle) -> None:
    """Raise `UserError` if the forest's driver drives another cycle."""
    _look(records, cycle, lambda state: None)


def other_at_work(records: Records) -> UserError:
    """Make the error for a forest in which another cycle is at work."""
    show, stop = (command(verb, forest=records.forest) for verb in ("status", "cancel"))
    return UserError(
        f"{records.forest}: a cycle with other settings is at work, or one of other text; "
        f"wait for it ({show}), or {stop}"
    )


def at_rest(state: CycleState) -> str:
    """Say how a cycle stands on which nobody works."""
    if not state["finished"]:
        return "stopped"
    return "cancelled" if "cancelled" in state["counts"] else "finished"


def _look(records: Records, cycle: Cycle, show: Show) -> CycleState | None:
    """Show and return the driver's last state; None if it has left none yet."""
    state = read_shown(records.files.state)
    if state is None:
        return None
    if state["cycle"] != cycle.id:
        raise other_at_work(records)
    show(state)
    return state


def request_retry(records: Records) -> None:
    """Ask the driver to try failed jobs again."""
    durable.make_folder(records.root)
    records.files.retry.touch()


def request_cancel(records: Records, name: str = "all") -> None:
    """Ask the driver to cancel a job, or all of them."""
    folder = durable.make_folder(records.files.cancel)
    (folder / name).touch()
