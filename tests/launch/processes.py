"""Commands as a user runs them, and what can be seen of them from outside."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path


def btm(*words):
    """Start a command of btm."""
    return subprocess.Popen(
        [sys.executable, "-m", "btm.cli", *words],
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )


PATIENCE = 4  # times the seconds that a quiet machine needs: tests of what happens, not of how fast


def finish(process, seconds=120, code=0):
    """Wait for a command to end with an exit code (None: any), and return what it said."""
    # Not communicate(): that passes over what readline() has already taken from the pipe.
    patience = threading.Timer(PATIENCE * seconds, process.kill)
    patience.start()
    with process:
        said = process.stdout.read()
    patience.cancel()
    assert code is None or process.returncode == code, said
    return said


def until(true, seconds=60, every=0.05):
    """Wait until a condition holds, and return what it gave."""
    end = time.monotonic() + PATIENCE * seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found


def is_over(pid):
    """Whether a process has ended, be it that nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def sign_of_life(forest, job):
    """What the last try at a job shows of itself: its pid, its step."""
    tries = sorted(
        (forest / "jobs/progress").glob(f"{job}.*.json"),
        key=lambda path: int(path.stem.rpartition(".")[2]),
    )
    try:
        return json.loads(tries[-1].read_text())
    except (OSError, ValueError, IndexError):
        return {}


def state(forest):
    """What the driver last saw."""
    try:
        return json.loads((forest / "jobs/state.json").read_text())
    except (OSError, ValueError):
        return {}
