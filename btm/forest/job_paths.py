"""Every file name of the cycles of a forest, below ``jobs/``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobPaths:
    """The files of the cycles of a forest; launch/records.py says what is in them."""

    root: Path

    @property
    def state(self) -> Path:
        """The state of the jobs as the driver last saw it."""
        return self.root / "state.json"

    @property
    def throughput(self) -> Path:
        """How fast trainings went here with how many threads (launch/throughput.py)."""
        return self.root / "throughput.json"

    @property
    def submissions(self) -> Path:
        """The folder of what was handed to Slurm."""
        return self.root / "submissions"

    @property
    def outcomes(self) -> Path:
        """The folder of how tries ended."""
        return self.root / "outcomes"

    @property
    def forgiven(self) -> Path:
        """The folder of outcomes that were set aside, so that their jobs are tried again."""
        return self.root / "forgiven"

    @property
    def driver(self) -> Path:
        """The folder whose lease the driver holds."""
        return self.root / "driver"

    @property
    def driver_log(self) -> Path:
        """The log of a driver in the background."""
        return self.root / "logs" / "driver.log"

    @property
    def cancel(self) -> Path:
        """The folder in which jobs to be cancelled are named."""
        return self.root / "cancel"

    @property
    def retry(self) -> Path:
        """A file that asks the driver to try failed jobs again."""
        return self.root / "retry"

    @property
    def progresses(self) -> Path:
        """The folder of running tries' signs of life."""
        return self.root / "progress"

    def cycle(self, cycle_id: str) -> Path:
        """Name the file of a cycle's settings."""
        return self.root / "cycles" / f"{cycle_id}.json"

    def outcome(self, job: str, attempt: int) -> Path:
        """Name the file that says how a try at a job ended."""
        return self.outcomes / f"{job}.{attempt}.json"

    def progress(self, job: str, attempt: int) -> Path:
        """Name the file of a running try's sign of life."""
        return self.progresses / f"{job}.{attempt}.json"

    def log(self, job: str, attempt: int) -> Path:
        """Name the file of a try's output."""
        return self.root / "logs" / f"{job}.{attempt}.log"
