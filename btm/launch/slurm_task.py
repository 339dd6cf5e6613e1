"""What one task of a Slurm array runs: ``python -m btm.launch.slurm_task MANIFEST``.

This process stays small and forks the worker, so that it outlives it: it names a death, a hang or a want of
memory, tries again where nobody else would (a detached cycle), and has Slurm requeue the job when its time
is up or it is preempted.
"""

import os
import signal
import sys
import time
from pathlib import Path

from btm.errors import UserError
from btm.launch.attempt import Attempt
from btm.launch.drive import retry_after
from btm.launch.records import Outcome, Records, Spec, read_json
from btm.launch.slurm import AwayError, run_command

_REQUEUE_SIGNAL = signal.SIGUSR2  # what submitit asks Slurm to send before a time limit or a preemption
_LOOK_EVERY = 0.2


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
        self.signals: set[int] = set()
        self.attempt: Attempt | None = None
        self.tries: list[Outcome] = []

    def run(self) -> int:
        """Try until done, failed or told to stop; return the exit code."""
        for number in (_REQUEUE_SIGNAL, signal.SIGTERM):
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
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
            self.records.take_back(outcome)  # this task goes on, so for everybody else its try is not over
            self._wait(delay)

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
        """Have the job requeued, unless it was cancelled; if that fails, leave it to the driver."""
        try:
            if _REQUEUE_SIGNAL in self.signals or not self._cancelled():
                run_command(["scontrol", "requeue", self.id])
                time.sleep(60)  # Slurm ends this process
        except (AwayError, UserError) as error:
            print(f"not requeued: {error}", file=sys.stderr, flush=True)
        self.records.write_outcome(outcome)
        return 1

    def _cancelled(self) -> bool:
        said = run_command(["squeue", "--noheader", "--states=all", f"--jobs={self.id}", "--format=%T"])
        return "CANCELLED" in said


def main(manifest: str) -> int:
    """Run the task of this array element; other tasks of a job with several have nothing to do."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return 0
    return Task(Path(manifest), int(os.environ["SLURM_ARRAY_TASK_ID"])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
