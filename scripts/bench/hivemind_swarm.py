"""The same uneven volunteers under hivemind: the row that together.py --hivemind compares with.

Each is a process of scripts/bench/hivemind_volunteer.py with a DHT of its own on this machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import uneven

VOLUNTEER = Path(__file__).with_name("hivemind_volunteer.py")


@dataclass(frozen=True)
class Swarm:
    """Who takes part, with what, and for how long."""

    python: str  # of .venv-hivemind
    out: Path
    model: Path  # that everybody begins with
    tokens: Mapping[str, Path]  # {volunteer: .npy of their text}
    shares: Mapping[str, int]  # of the speed; the first one is there from first to last
    late: str  # who joins after a quarter of the rounds
    killed: str  # who is killed after half of them
    rounds: int
    round_sequences: int
    batch: int
    lr: float

    def home(self, name: str) -> Path:
        """The folder of a volunteer."""
        return self.out / name

    def progress(self, name: str) -> dict[str, int]:
        """Rounds and sequences of a volunteer so far."""
        file = self.home(name) / "progress.json"
        none = {"rounds": 0, "sequences": 0}
        return json.loads(file.read_text()) if file.exists() else none


def train(swarm: Swarm) -> tuple[Path, dict[str, int]]:
    """Run the swarm, unless it ended well; return the first one's model, and who read how much.

    A swarm that was killed begins anew.
    """
    first = next(iter(swarm.shares))
    done = swarm.out / "done"
    if not done.exists():
        shutil.rmtree(swarm.out, ignore_errors=True)
        _run(swarm, first)
        done.touch()
    read = {name: swarm.progress(name)["sequences"] for name in swarm.shares}
    return swarm.home(first) / "model", read


def _run(swarm: Swarm, first: str) -> None:
    running: dict[str, subprocess.Popen[bytes]] = {}
    enter, go, late = (swarm.out / name for name in ("enter", "go", "late"))
    try:
        # All import what they need first, which takes long at a quarter of a machine's speed.
        running[first] = _begin(swarm, first, None, swarm.out, go)
        address = swarm.home(first) / "address.json"
        for name in swarm.shares:
            if name != first:
                waits = (late, late) if name == swarm.late else (enter, go)
                running[name] = _begin(swarm, name, address, *waits)
        _wait(running, swarm, [address, *(swarm.home(name) / "ready" for name in swarm.shares)])
        enter.touch()
        on_time = [name for name in swarm.shares if name != swarm.late]
        _wait(running, swarm, [swarm.home(name) / "address.json" for name in on_time])
        go.touch()
        while running[first].poll() is None:
            _require(running, swarm)
            rounds = swarm.progress(first)["rounds"]
            if rounds >= swarm.rounds // 4:
                late.touch()
            if swarm.killed in running and rounds >= swarm.rounds // 2:
                os.killpg(running.pop(swarm.killed).pid, signal.SIGKILL)
            time.sleep(0.2)
        _require(running, swarm)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)


def _begin(
    swarm: Swarm, name: str, address: Path | None, enter: Path, go: Path
) -> "subprocess.Popen[bytes]":
    home = swarm.home(name)
    home.mkdir(parents=True)
    values = {
        "home": home,
        "model": swarm.model,
        "tokens": swarm.tokens[name],
        "enter": enter,
        "go": go,
        "rounds": swarm.rounds,
        "round-sequences": swarm.round_sequences,
        "batch": swarm.batch,
        "lr": swarm.lr,
        "seed": list(swarm.shares).index(name),
    }
    values |= {"peers": address} if address else {}
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [swarm.python, str(VOLUNTEER), *(f"--{key}={value}" for key, value in values.items())],
            stdout=log,
            stderr=log,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            start_new_session=True,
        )
    uneven.slow_down(process, swarm.shares[name] / max(swarm.shares.values()))
    return process


def _wait(
    running: Mapping[str, "subprocess.Popen[bytes]"], swarm: Swarm, files: list[Path]
) -> None:
    while not all(file.exists() for file in files):
        _require(running, swarm)
        time.sleep(0.2)


def _require(running: Mapping[str, "subprocess.Popen[bytes]"], swarm: Swarm) -> None:
    """End the bench where a volunteer failed before it had its model."""
    ended = [name for name, process in running.items() if process.poll()]
    if failed := [name for name in ended if not (swarm.home(name) / "model").exists()]:
        sys.exit(f"{failed[0]} failed: {swarm.home(failed[0])}/log")
