"""One try at one job in a child process: forked, watched, and its end recorded."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from btm.launch import worker
from btm.launch.records import Kind, Outcome, Records, Spec, read_shown
from btm.system.processes import STOP_SIGNALS, die_with_parent

_STOPPED = 75  # exit code EX_TEMPFAIL of sysexits.h


class Attempt:
    """A child process that works on a spec.

    A fork of a process that has imported torch and transformers starts to work within milliseconds.
    The parent must not have run any parallel torch code, for thread pools do not survive a fork.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        threads: int = 0,
        gpus: Sequence[str] | None = None,
        memory_bytes: int = 0,
        hang_after: float = 600.0,
        keep_stops: bool = True,
    ) -> None:
        """Fork the child with `threads` threads, on the cards `gpus` only.

        Above `memory_bytes` (0: no bound), or after `hang_after` seconds without a sign of life, it
        is killed. Without `keep_stops` the outcome of a child that was asked to stop is returned
        but not recorded.
        """
        self.spec, self.memory_bytes, self.hang_after = spec, memory_bytes, hang_after
        self.records = Records(Path(spec.forest))
        self.begun, self._wall = time.monotonic(), time.time()
        self._doom: Kind | None = None
        # The time of the last sign of life by the file's clock, and when ours first saw it.
        self._seen, self._lived = 0, self.begun
        self._ooms = _kernel_ooms()
        log = self.records.log(spec.job.name, spec.attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal to stop is held back until the worker listens: it must neither be lost nor run
        # this process's handlers in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self.pid = os.fork()
        if not self.pid:
            _child(spec, log, parent, threads, gpus, keep_stops)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.handle = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1

    def poll(self) -> Outcome | None:
        """Return the outcome, None while the try goes on; kill it if it hangs or is too large."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            self._watch()
            return None
        if self.handle >= 0:
            os.close(self.handle)
        written = self.records.outcome(self.spec.job.name, self.spec.attempt)
        # An outcome from before this child began is that of an earlier start of the same try.
        if written is not None and written.ended >= self._wall and self._doom is None:
            return written
        outcome = self._name_death(status)
        if outcome.kind == "stopped":
            return outcome
        self.records.write_outcome(outcome)
        return outcome

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the child to save and stop (SIGTERM, SIGUSR2), or kill it."""
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            os.kill(self.pid, number)

    def _watch(self) -> None:
        """Kill the child after a long time without a sign of life, or above its memory bound."""
        if self._doom:
            return
        if self.memory_bytes and _resident_bytes(self.pid) > self.memory_bytes:
            self._kill("oom")
        file = self.records.progress(self.spec.job.name, self.spec.attempt)
        seen = file.stat().st_mtime_ns if file.exists() else 0
        if seen != self._seen:  # two clocks, or one across a suspension, cannot be compared
            self._seen, self._lived = seen, time.monotonic()
        if time.monotonic() - self._lived > self.hang_after:
            self._kill("hang")

    def _kill(self, doom: Kind) -> None:
        self._doom = doom
        os.kill(self.pid, signal.SIGKILL)

    def _name_death(self, status: int) -> Outcome:
        kind: Kind = self._doom or "killed"
        shown = read_shown(self.records.progress(self.spec.job.name, self.spec.attempt)) or {}
        where = f" at step {shown['step']}" if "step" in shown else ""
        if self._doom == "hang":
            message = f"no sign of life for {self.hang_after:g} s{where}; killed"
        elif self._doom == "oom":
            message = f"held more than cluster.memory_gb={self.memory_bytes / 1e9:g}{where}; killed"
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == _STOPPED:
            kind, message = "stopped", f"asked to stop{where}"
        elif os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            if name == "SIGKILL" and _kernel_ooms() > self._ooms:
                kind, message = "oom", f"killed by the kernel for want of memory{where}"
            else:
                message = f"killed by {name}{where}"
        else:
            message = f"ended with exit code {os.WEXITSTATUS(status)} and said nothing{where}"
        spec = self.spec
        saved = self.records.saved(spec.job)
        lasted = time.monotonic() - self.begun
        name, attempt = spec.job.name, spec.attempt
        return Outcome(spec.cycle, name, attempt, kind, message, saved, lasted, time.time())


def preload(model_type: str | None) -> None:
    """Import the modules that every worker needs, so that forks have them; runs no torch code."""
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    from btm import steps  # noqa: F401
    from btm.models import causal_lm

    if model_type:
        import importlib

        importlib.import_module(causal_lm.modeling_module(model_type))


def _child(
    spec: Spec, log: Path, parent: int, threads: int, gpus: Sequence[str] | None, keep_stops: bool
) -> None:
    """Become the worker; never returns."""
    code = 1
    try:
        die_with_parent(parent)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        outcome = worker.work(spec, threads=threads, keep_stops=keep_stops)
        sys.stdout.flush()
        code = _STOPPED if outcome.kind == "stopped" and not keep_stops else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _resident_bytes(pid: int) -> int:
    """Measure the memory of a process and of its children in sessions of their own.

    Those are fairseq and the processes that train one expert together. Forked children are left
    out: their shared pages would count twice.
    """
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = Path(f"/proc/{pid}/task").glob("*/children")
        started = [file.read_text().split() for file in files]
    except (OSError, IndexError):
        return 0
    apart = [int(child) for children in started for child in children if _leads(child)]
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(_resident_bytes, apart))


def _leads(pid: str) -> bool:
    """Tell whether a process leads a session."""
    with contextlib.suppress(OSError):
        return os.getsid(int(pid)) == int(pid)
    return False


def _kernel_ooms() -> int:
    """Count the processes that the kernel has killed for lack of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
