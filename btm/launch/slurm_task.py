"""One task of a Slurm array: ``python -m btm.launch.slurm_task MANIFEST``.

This process stays small and forks the worker, so that it outlives it: it names a death, a hang or a
lack of memory, tries again where no driver would (a detached cycle), and has Slurm requeue the job
when its time is up or it is preempted.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Literal

from btm.errors import UserError
from btm.launch.attempt import Attempt
from btm.launch.drive import retry_after
from btm.launch.records import Outcome, Records, Spec, read_json
from btm.launch.slurm_commands import AwayError, run_command
from btm.system import caches
from btm.system.processes import collect_garbage_seldom

# submitit asks Slurm to send this before a time limit or a preemption.
_REQUEUE_SIGNAL = signal.SIGUSR2
_LOOK_EVERY = 0.2
_ENDS_WITHIN = 60.0  # seconds in which Slurm ends a task that it will start again


class Task:
    """One task: a spec, the tries at it, and the signals from Slurm."""

    def __init__(self, manifest: Path, index: int) -> None:
        """Read the spec again from disk."""
        values = read_json(manifest)
        self.spec = Spec.from_json(values["specs"][index])
        self.detached = bool(values["detached"])
        self.cpus = int(values["cpus"]) or 1
        self.records = Records(Path(self.spec.forest))
        self.cluster = self.records.read_cycle(self.spec.cycle).config.cluster
        self.id = f"{os.environ.get('SLURM_ARRAY_JOB_ID', '0')}_{index}"
        self.restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.signals: set[int] = set()
        self.attempt: Attempt | None = None
        self.tries: list[Outcome] = []

    def run(self) -> int:
        """Try until done, failed or told to stop; return the exit code."""
        for number in (_REQUEUE_SIGNAL, signal.SIGTERM):
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        if self._decided():
            return 0
        while True:
            outcome = self._try()
            if outcome.kind == "done":
                return 0
            if outcome.kind == "stopped":
                return self._stopped(outcome)
            if not self.detached:
                return 1
            self.tries.append(outcome)
            delay = retry_after(self.tries, self.cluster)
            if delay is None:
                return 1
            # This task goes on, so its try must not look finished to others.
            self.records.take_back(outcome)
            self._wait(delay)

    def _decided(self) -> bool:
        """Tell whether this try has ended for everybody else: Slurm may restart a finished job.

        Where nobody drives the cycle, a try that this task itself would repeat goes on. `lost` is
        recorded by a driver, which has begun another try.
        """
        written = self.records.outcome(self.spec.job.name, self.spec.attempt)
        if written is None:
            return False
        open_end = written.kind not in ("done", "lost")
        again = open_end and retry_after([written], self.cluster) is not None
        if self.detached and again:
            self.records.take_back(written)
            return False
        print(f"this try has ended already ({written.kind}): nothing to do", flush=True)
        return True

    def _try(self) -> Outcome:
        self.attempt = Attempt(
            self.spec, threads=self.cpus, hang_after=self.cluster.hang_after, keep_stops=False
        )
        if self.signals:
            self.attempt.stop(signal.SIGTERM)
        while (outcome := self.attempt.poll()) is None:
            time.sleep(_LOOK_EVERY)
        self.attempt = None
        return outcome

    def _wait(self, seconds: float) -> None:
        """Sleep, but wake up for signals from Slurm."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.signals:
            time.sleep(_LOOK_EVERY)

    def _note(self, number: int, _: object) -> None:
        """Pass a signal on; Slurm may send it to this process alone or to all of the job."""
        self.signals.add(number)
        if self.attempt is not None:
            self.attempt.stop(signal.SIGTERM)

    def _stopped(self, outcome: Outcome) -> int:
        """Requeue the job if it is ours to do; record the end if it was cancelled or that fails."""
        try:
            said = run_command(["scontrol", "--oneliner", "show", "job", self.id])
            what = fate(said, self.restarts, warned=_REQUEUE_SIGNAL in self.signals)
            if what == "requeue":
                run_command(["scontrol", "requeue", self.id])
            if what != "end":
                time.sleep(_ENDS_WITHIN)
                return 1  # the try goes on with the next start
        except (AwayError, UserError) as error:
            print(f"not requeued: {error}", file=sys.stderr, flush=True)
        self.records.write_outcome(outcome)
        return 1


def fate(said: str, restarts: int, *, warned: bool) -> Literal["requeue", "restart", "end"]:
    """Decide the fate of a job that was told to stop, from ``scontrol show job``.

    `restart`: somebody requeued it, which has raised its count of restarts, so Slurm starts it
    again by itself. `requeue`: it still runs, so that was a warning (preemption, time limit), or
    there was one before (`warned`). `end`: it was cancelled. Its state alone does not tell: in both
    cases it is COMPLETING.
    """
    found = dict(re.findall(r"\b(JobState|Restarts)=(\S+)", said))
    if int(found.get("Restarts", 0)) > restarts:
        return "restart"
    return "requeue" if warned or found.get("JobState") == "RUNNING" else "end"


def main(manifest: str) -> int:
    """Run the task of this array element; further processes of the job have nothing to do."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return 0
    collect_garbage_seldom()
    caches.prepare()  # of this machine: the variable may come from another
    return Task(Path(manifest), int(os.environ["SLURM_ARRAY_TASK_ID"])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
