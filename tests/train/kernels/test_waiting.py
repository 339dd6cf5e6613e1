"""Threads spin at barriers until others want the cores; what they compute stays as it was."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from folders import ROOT, uncovered

from btm.train.kernels import waiting


@pytest.fixture
def undecided(monkeypatch):
    for variable in waiting.DECIDED_BY:
        monkeypatch.delenv(variable, raising=False)
    torch.set_num_threads(2)


@pytest.fixture
def neighbours():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for process in busy:
        process.kill()
        process.wait()


def threads():
    return {thread.name for thread in threading.enumerate()} & {"btm-waiting", "btm-team"}


def compute_until(true, seconds):
    """Multiply matrices in all threads until `true()`; tell whether it came."""
    matrix, end = torch.ones(256, 256), time.monotonic() + seconds
    while time.monotonic() < end and not true():
        matrix @ matrix
    return true()


def test_beside_busy_programs_libgomp_gets_more_threads_than_there_are_cores(undecided, neighbours):
    with waiting.considerate():
        assert compute_until(lambda: "btm-team" in threads(), 30)
    assert not threads()


def test_threads_that_stepped_aside_get_all_their_cores_back(undecided, neighbours):
    before = os.sched_getaffinity(0)
    with waiting.considerate():
        assert compute_until(lambda: os.sched_getaffinity(0) < before, 30)
    cores = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # another thread, which has ended since
            cores.append(os.sched_getaffinity(int(task.name)))
    assert cores and all(these == before for these in cores)


@pytest.mark.parametrize("variable", waiting.DECIDED_BY)
def test_who_has_decided_is_left_alone(undecided, monkeypatch, variable):
    monkeypatch.setenv(variable, "active" if variable == "OMP_WAIT_POLICY" else "1000")
    with waiting.considerate():
        assert not threads()


def test_an_error_ends_the_watcher(undecided):
    with pytest.raises(ZeroDivisionError), waiting.considerate():
        assert threads() == {"btm-waiting"}
        1 / 0  # noqa: B018
    assert not threads()


@pytest.mark.slow
def test_losses_do_not_depend_on_how_threads_wait():
    command = [sys.executable, "scripts/bench/neighbour.py", "--quick"]
    done = subprocess.run(
        command, cwd=ROOT, env=uncovered(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the last bit" in done.stdout
    assert all(f"\n{way} " in done.stdout for way in ("spin", "passive", "btm"))
