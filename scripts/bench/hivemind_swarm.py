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
    synchronous: bool  # a round is one step of all

    @property
    def go(self) -> Path:
        """A file that says that all who are on time are there."""
        return self.out / "go"

    def home(self, name: str) -> Path:
        """The folder of a volunteer."""
        return self.out / name

    def progress(self, name: str) -> dict[str, int]:
        """Rounds and sequences of a volunteer so far."""
        file = self.home(name) / "progress.json"
        none = {"rounds": 0, "sequences": 0}
        return json.loads(file.read_text()) if file.exists() else none


def train(swarm: Swarm) -> tuple[Path, dict[str, int]]:
    """Run the swarm, unless that is done; return the first volunteer's model, and the sequences that each one read."""
    first = next(iter(swarm.shares))
    model = swarm.home(first) / "model"
    if not model.exists():
        shutil.rmtree(swarm.out, ignore_errors=True)
        _run(swarm, first)
    return model, {name: swarm.progress(name)["sequences"] for name in swarm.shares}


def _run(swarm: Swarm, first: str) -> None:
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        peers: list[str] = []
        for name in swarm.shares:
            if name != swarm.late:  # nobody begins before those who are on time are there
                running[name] = _begin(swarm, name, peers)
                _wait(running, swarm, swarm.home(name) / "address.json")
                peers = peers or json.loads((swarm.home(name) / "address.json").read_text())
        swarm.go.touch()
        dead = False
        while running[first].poll() is None:
            done = swarm.progress(first)["rounds"]
            if swarm.killed in running and done >= swarm.rounds // 2:
                os.killpg(running.pop(swarm.killed).pid, signal.SIGKILL)
                dead = True
            for name in swarm.shares:
                is_due = name != swarm.late or done >= swarm.rounds // 4
                if name not in running and is_due and not (name == swarm.killed and dead):
                    running[name] = _begin(swarm, name, peers)
            time.sleep(0.5)
        _require(running, swarm)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)


def _begin(swarm: Swarm, name: str, peers: list[str]) -> "subprocess.Popen[bytes]":
    home = swarm.home(name)
    home.mkdir(parents=True)
    numbers = {
        "rounds": swarm.rounds,
        "round-sequences": swarm.round_sequences,
        "batch": swarm.batch,
        "lr": swarm.lr,
        "seed": list(swarm.shares).index(name),
    }
    command = [swarm.python, str(VOLUNTEER), f"--home={home}", f"--model={swarm.model}"]
    command += [f"--go={swarm.go}"]
    command += [f"--tokens={swarm.tokens[name]}", *(f"--{k}={v}" for k, v in numbers.items())]
    command += ["--synchronous"] if swarm.synchronous else []
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *(["--peers", *peers] if peers else [])],
            stdout=log,
            stderr=log,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            start_new_session=True,
        )
    uneven.slow_down(process, swarm.shares[name] / max(swarm.shares.values()))
    return process


def _wait(running: Mapping[str, "subprocess.Popen[bytes]"], swarm: Swarm, file: Path) -> None:
    while not file.exists():
        _require(running, swarm)
        time.sleep(0.2)


def _require(running: Mapping[str, "subprocess.Popen[bytes]"], swarm: Swarm) -> None:
    """End the bench where a volunteer failed."""
    if failed := [name for name, process in running.items() if process.poll()]:
        sys.exit(f"{failed[0]} failed: {swarm.home(failed[0])}/log")
