"""What the command line does with cycles: run, status, logs, cancel."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from btm import steps
from btm.config import Config
from btm.errors import UserError, unknown
from btm.launch import attach
from btm.launch.board import Board
from btm.launch.records import Cycle, Records, read_shown
from btm.report import ConsoleReporter


def run(config: Config, stream: IO[str], *, detach: bool = False, retry: bool = False) -> bool | None:
    """Run a cycle, or watch it if it runs; return whether all was done, or None if detached."""
    cycle, records = plan(config, stream)
    if retry:
        records.forgive(cycle.id)
    if detach:
        if not attach.driver_runs(records):
            attach.start(records, cycle)
        return None
    board = Board(stream, records)
    try:
        state = attach.watch(records, cycle, board.show)
    except KeyboardInterrupt:
        board.close()
        say = "the jobs go on: the same command watches them again, btm status shows them, btm cancel stops them"
        print(f"\n{say}", file=stream)
        raise
    board.close()
    for name, job in state["jobs"].items():
        if job["state"] in ("failed", "blocked"):
            print(f"{name} {job['state']}: {job['message']}", file=stream)
    failed = [job for job in state["jobs"].values() if job["state"] == "failed"]
    if failed:
        print(f"{len(failed)} failed; mend the cause, then the same command with --retry-failed", file=stream)
    return all(job["state"] == "done" for job in state["jobs"].values())


def plan(config: Config, stream: IO[str]) -> tuple[Cycle, Records]:
    """Prepare the text and record the settings of the cycle."""
    suite = steps.prepare(config, ConsoleReporter(stream))
    records = Records(Path(config.forest_root))
    return records.write_cycle(config, steps.rounds(config, suite)), records


def status(config: Config) -> tuple[list[dict[str, Any]], str]:
    """Return a row for each job of the forest's last cycle, and a title."""
    records = Records(Path(config.forest_root))
    state = read_shown(records.root / "state.json")
    if state is None:
        raise UserError(f"no cycle has run in {records.forest}; start one with: btm run")
    rows = []
    for name, job in state["jobs"].items():
        shown = read_shown(records.progress(name, job["try"])) or {} if job["state"] == "running" else {}
        rows.append(
            {
                "job": name,
                "state": job["state"],
                "try": job["try"],
                "step": f"{shown['step']}/{shown['steps']}" if "steps" in shown else "",
                "loss": shown.get("loss"),
                "tokens/s": round(shown["tokens_per_second"]) if "tokens_per_second" in shown else None,
                "why": job["message"],
            }
        )
    alive = "at work" if attach.driver_runs(records) else "finished" if state["finished"] else "stopped"
    counts = ", ".join(f"{count} {state}" for state, count in sorted(state["counts"].items()))
    return rows, f"cycle {state['cycle']} in {records.forest}: {alive}; {counts}"


def log_lines(config: Config, elm: str, *, follow: bool) -> Iterator[str]:
    """Yield what the last try of an ELM's job has printed, and what it goes on to print."""
    records = Records(Path(config.forest_root))
    state = read_shown(records.root / "state.json") or {"jobs": {}}
    names = [name for name in (elm, f"train-{elm}") if name in state["jobs"]]
    if not names:
        known = [name.removeprefix("train-") for name in state["jobs"]]
        raise unknown("job", elm, known, str(records.root))
    name = names[0]
    position = 0
    while True:
        state = read_shown(records.root / "state.json") or state
        job = state["jobs"][name]
        file = records.log(name, job["try"])
        if file.exists():
            with file.open(errors="replace") as handle:
                handle.seek(position)
                yield handle.read()
                position = handle.tell()
        if not follow or state["finished"] or job["state"] not in ("queued", "running", "ready", "waiting"):
            return
        time.sleep(0.3)


def cancel(config: Config) -> str:
    """Ask for the end of the forest's cycle, or of one expert's job, and wait until it is so."""
    records = Records(Path(config.forest_root))
    state = read_shown(records.root / "state.json")
    if state is None or not attach.driver_runs(records):
        raise UserError(f"no cycle is at work in {records.forest}")
    if config.expert is None:
        attach.request_cancel(records)
        while attach.driver_runs(records):
            time.sleep(0.1)
        return f"cancelled; what was trained is saved, and btm run goes on from there ({records.forest})"
    name = next((n for n in (config.expert, f"train-{config.expert}") if n in state["jobs"]), None)
    if name is None:
        raise unknown("job", config.expert, state["jobs"], str(records.root))
    attach.request_cancel(records, name)
    return f"cancelling {name}; btm run --retry-failed tries it again"
