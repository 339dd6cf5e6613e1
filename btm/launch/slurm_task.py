"""What one task of a Slurm array runs: ``python -m btm.launch.slurm_task MANIFEST``.

This process stays small and forks the worker, so that it outlives it: it names a death, a hang or a
want of memory, tries again where nobody else would (a detached cycle), and has Slurm requeue the
job when its time is up or it is preempted.
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
from btm.launch.slurm import AwayError, run_command

_REQUEUE_SIGNAL = (
    signal.SIGUSR2
)  # what submitit asks Slurm to send before a time limit or a preemption
_LOOK_EVERY = 0.2
_ENDS_WITHIN = 60.0  # seconds in which Slurm ends a task that it is about to start again


class Task:
    """One task: a spec, the tries at it, and what Slurm wants of it."""

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
            self.records.take_back(
                outcome
            )  # this task goes on, so for everybody else its try is not over
            self._wait(delay)

    def _decided(self) -> bool:
        """Tell whether this try has ended for everybody else: Slurm starts again what it took for
        dead.

        Where nobody drives the cycle, a try that this task itself would do again goes on. `lost` is
        what a driver says, and it has begun another.
        """
        written = self.records.outcome(self.spec.job.name, self.spec.attempt)
        if written is None:
            return False
        again = (
            written.kind not in ("done", "lost")
            and retry_after([written], self.cluster) is not None
        )
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
        """Sleep, but not through what Slurm wants."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.signals:
            time.sleep(_LOOK_EVERY)

    def _note(self, number: int, _: object) -> None:
        """Pass a signal on; Slurm may send it to this process alone or to all of the job."""
        self.signals.add(number)
        if self.attempt is not None:
            self.attempt.stop(signal.SIGTERM)

    def _stopped(self, outcome: Outcome) -> int:
        """Have the job requeued if that is left to us; if it was cancelled, or that fails, record
        the end.
        """
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
    """Return what becomes of a job that was told to stop, from what ``scontrol show job`` says of
    it.

    `restart`: somebody had it requeued, which has raised its count of restarts, so Slurm starts it
    again by itself. `requeue`: it still runs, so that was a warning (preemption, time limit), or
    there was one before (`warned`). `end`: it was cancelled. Its state alone does not tell, for in
    both cases that is COMPLETING.
    """
    found = dict(re.findall(r"\b(JobState|Restarts)=(\S+)", said))
    if int(found.get("Restarts", 0)) > restarts:
        return "restart"
    return "requeue" if warned or found.get("JobState") == "RUNNING" else "end"


def main(manifest: str) -> int:
    """Run the task of this array element; other tasks of a job with several have nothing to do."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return 0
    return Task(Path(manifest), int(os.environ["SLURM_ARRAY_TASK_ID"])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
