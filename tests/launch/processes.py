"""Commands as a user runs them, and what can be seen of them from outside."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path

from folders import uncovered

# Forks of a process that has imported these, and run none of it, start within milliseconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["btm.steps", "btm.cli.main", "btm.launch.local", "transformers.models.llama.modeling_llama"]
)


def btm(*words):
    """Start a command of btm."""
    return subprocess.Popen(
        [sys.executable, "-m", "btm.cli", *words],
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )


class Forked:
    """A command of btm, or a script, that need not start Python and import torch and transformers,
    which costs four seconds of a core; of a `subprocess.Popen` it has what tests use.
    """

    def __init__(self, *words, script=None, apart=False):
        """`apart` keeps stderr out of `stdout`, in a stream of its own."""
        pipes = [FORKS.Pipe(duplex=False) for _ in range(1 + apart)]
        writers = [writer for _, writer in pipes]
        surroundings = Path.cwd(), dict(os.environ)
        self._process = FORKS.Process(target=_command, args=(words, script, writers, *surroundings))
        self._process.start()
        for writer in writers:
            writer.close()
        self.pid = self._process.pid
        streams = []
        for said, _ in pipes:
            with said:
                streams.append(os.fdopen(os.dup(said.fileno())))
        self.stdout, self.stderr = streams[0], streams[1] if apart else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stdout.close()
        if self.stderr:
            self.stderr.close()
        self.wait()

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def wait(self):
        self._process.join()
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self._process.kill()


def _command(words, script, writers, folder, environment):
    """Become `btm …`, or `python script …`, in a folder and an environment; coverage is measured if
    that says so.
    """
    from btm.cli import main

    os.dup2(writers[0].fileno(), 1)
    os.dup2(writers[-1].fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    coverage = sys.modules.get("coverage")
    measured = coverage and coverage.Coverage.current()
    if measured and environment == uncovered():
        measured.stop()
        # It would say so at the end, after what the command says last.
        measured.set_option("run:disable_warnings", ["no-data-collected"])
    if script is None:
        sys.exit(main.main(list(words)))
    sys.argv = [str(script), *map(str, words)]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(str(script), run_name="__main__")


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


def until(true, seconds=60, every=0.05, seen=lambda: ""):
    """Wait until a condition holds, and return what it gave; `seen` says how things stand if not."""
    end = time.monotonic() + PATIENCE * seconds
    while not (found := true()):
        assert time.monotonic() < end, f"waited in vain {seen()}"
        time.sleep(every)
    return found


def children(pid):
    """The processes that a process has started, and those that they have."""
    found = [
        int(child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
    ]
    return found + [grandchild for child in found for grandchild in children(child)]


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
