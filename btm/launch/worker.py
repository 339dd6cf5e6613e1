"""One try at one job in this process: read everything from disk, do the step, record the end."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from btm import steps
from btm.config.schema import Config
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest
from btm.launch.jobs import Job
from btm.launch.records import Kind, Outcome, Records, Spec, show_file
from btm.report import Progress, Reporter
from btm.steps import baselines
from btm.steps.standing import require_text
from btm.system import lease
from btm.system.notes import note
from btm.system.processes import STOP_SIGNALS
from btm.train.loop import TrainingFailedError

_BEAT_EVERY = 0.5  # seconds
_WAIT = 0.5  # seconds between looks at a folder that another process holds


class BlockedError(Exception):
    """A parent of the job is not in the forest."""


class JobReporter(Reporter):
    """Keeps the sign of life that others watch, and stops the job on signals."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.stopping = False
        self.shown: dict[str, object] = {"pid": os.getpid()}
        self._beaten = -1e9

    def listen(self) -> None:
        """Stop at the next step once a stop signal comes, or if one has been held back."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def beat(self, *, always: bool = False, **news: object) -> None:
        """Show a sign of life, and `news` for the table."""
        self.shown |= news
        now = time.monotonic()
        if always or now - self._beaten >= _BEAT_EVERY:
            self._beaten = now
            try:
                show_file(self.file, self.shown)
            except OSError as error:
                note(f"{self.file}: {error.strerror}: progress is not shown, the work goes on")

    def line(self, text: str) -> None:
        """Print a line into the job's log, if that can be written."""
        with contextlib.suppress(OSError):
            print(text, flush=True)
        self.beat(always=True)

    def alive(self) -> None:
        """Show a sign of life."""
        self.beat()

    def pulse(self, step: int) -> bool:
        """Show the training step; return whether the job must stop."""
        self.beat(step=step)
        return self.stopping

    @contextlib.contextmanager
    def training(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """Show the training's progress and log each of its lines."""

        def report(p: Progress) -> None:
            nats = "" if p.valid_nats is None else f"  valid {p.valid_nats:.3f}"
            rate = f"{p.tokens_per_second:,.0f} tokens/s"
            print(f"step {p.step}/{p.steps}  loss {p.loss:.3f}{nats}  {rate}", flush=True)
            self.beat(always=True, **asdict(p))

        yield report

    @contextlib.contextmanager
    def scoring(self, name: str, tokens: int) -> Iterator[Callable[[int], None]]:
        """Show how many tokens are scored."""
        done = 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            self.beat(always=done == tokens, scored=done, to_score=tokens)
            if self.stopping:
                raise TrainingStoppedError(f"stopped after {done:,} scored tokens")

        yield report


def work(spec: Spec, *, threads: int = 0, keep_stops: bool = True) -> Outcome:
    """Make one try at a job in this process; record and return its outcome.

    Without `keep_stops` a try that was asked to stop is not recorded: its caller will continue it.
    """
    records = Records(Path(spec.forest))
    reporter = JobReporter(records.progress(spec.job.name, spec.attempt))
    reporter.listen()
    reporter.beat(always=True, started=time.time())
    begun = time.monotonic()
    kind: Kind
    try:
        cycle = records.read_cycle(spec.cycle)
        config = cycle.config
        require_text(config, cycle.text)
        if threads:
            config.trainer.threads = threads
        _until_free(config, spec.job, reporter)
        kind, message = "done", ""
    except TrainingStoppedError as error:
        kind, message = "stopped", str(error)
    except TrainingFailedError as error:
        kind, message = "nan", str(error)
    except BlockedError as error:
        kind, message = "blocked", str(error)
    except UserError as error:
        kind, message = "mistake", str(error)
    except (OSError, MemoryError) as error:
        traceback.print_exc()
        kind, message = "fault", _one_line(error)
    except Exception as error:
        traceback.print_exc()
        kind, message = ("oom" if _is_out_of_memory(error) else "mistake"), _one_line(error)
    if message:
        print(f"{kind}: {message}", file=sys.stderr, flush=True)
    saved = records.saved(spec.job)
    lasted = time.monotonic() - begun
    name, attempt = spec.job.name, spec.attempt
    outcome = Outcome(spec.cycle, name, attempt, kind, message, saved, lasted, time.time())
    if keep_stops or kind != "stopped":
        records.write_outcome(outcome)
    return outcome


def perform(config: Config, job: Job, reporter: Reporter) -> None:
    """Perform the step of a job; `BlockedError` if its parents are not in the forest."""
    if job.verb == "seed":
        steps.seed(config, reporter)
        return
    forest = Forest(config.forest_root)
    wanted = job.among if job.verb == "train" else (job.elm,) if job.verb == "score" else ()
    missing = [name for name in wanted if name not in forest]
    if missing:
        raise BlockedError(
            f"{', '.join(missing)}: not in {forest.root}, and {job.name} is made of it"
        )
    if job.together:
        baselines.grow_together(config, reporter)
    elif job.verb == "train":
        steps.grow_expert(config, job.elm, list(job.among), reporter)
    elif job.verb == "score":
        steps.score_for_eval(config, job.elm, reporter)
    else:
        steps.finish(config, reporter)


def _until_free(config: Config, job: Job, reporter: JobReporter) -> None:
    """Perform the job; while another process holds its branch, wait for it to finish or die."""
    told = False
    while True:
        try:
            return perform(config, job, reporter)
        except (lease.HeldError, lease.LostError) as error:
            if not told:
                reporter.line(f"waiting: {error}")
                told = True
            reporter.beat()
            if reporter.stopping:
                raise TrainingStoppedError("stopped while waiting") from None
            time.sleep(_WAIT)


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
