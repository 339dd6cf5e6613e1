"""How long a cluster is waited for that does not answer, or takes no more jobs.

Time counts only while the cluster has no job of the cycle: it is asked about those as long as it
takes, and each answer begins the count anew.
"""

from collections.abc import Callable
from typing import Literal

_AGAIN = 60.0  # seconds after which a full cluster is tried again, a fifth of the patience at most


class Patience:
    """The trouble that a cluster gives, since when, and what has been said of it."""

    def __init__(
        self, limit: float, every: float, now: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        """Give up after `limit` seconds; a cluster that is away is asked again each `every`."""
        self.limit, self.every, self.now, self.say = limit, every, now, say
        self._since: float | None = None
        self._why = ""
        self._told: set[Literal["away", "full"]] = set()
        self._rests_until = 0.0

    def away(self, why: str, jobs: int = 0) -> None:
        """Note that the cluster does not answer, while it has so many jobs of the cycle."""
        self._note(f"Slurm does not answer ({why})")
        if jobs:
            self._since = None  # it is waited for as long as it takes
        if "away" not in self._told:
            self._told.add("away")
            waits = f"waiting for what it was given before (jobs: {jobs}), which goes on"
            self.say(f"{self._why}; {waits if jobs else self._terms(self.every)}")

    def full(self, why: str) -> None:
        """Note that the cluster takes no more jobs, and let it rest."""
        again = min(_AGAIN, self.limit / 5)
        self._rests_until = self.now() + again
        self._note(f"Slurm takes no more jobs now ({why})")
        if "full" not in self._told:
            self._told.add("full")
            self.say(f"{self._why}; {self._terms(again)}")

    def answered(self) -> None:
        """Note that the cluster has told of the cycle's jobs."""
        self._since = None
        if "away" in self._told:
            self._told.remove("away")
            self.say("Slurm answers again")

    def taken(self) -> None:
        """Note that the cluster has taken jobs."""
        self._since, self._rests_until = None, 0.0
        if self._told:
            self._told.clear()
            self.say("Slurm takes jobs again")

    def rests(self) -> bool:
        """Tell whether a full cluster should not be tried yet."""
        return self.now() < self._rests_until

    def over(self) -> str:
        """Say why the cluster is no longer waited for; "" while it is."""
        if self._since is None or self.now() - self._since < self.limit:
            return ""
        return (
            f"{self._why}, tried for {self.now() - self._since:.0f} s; what it took before goes "
            "on, and the same command submits the rest once squeue answers and sbatch takes jobs; "
            f"cluster.patience={max(600, 2 * self.limit):g} waits longer, cluster=local needs no "
            "Slurm"
        )

    def _note(self, why: str) -> None:
        self._why = why
        if self._since is None:
            self._since = self.now()

    def _terms(self, again: float) -> str:
        """Say how the cluster is waited for."""
        return (
            f"asked again every {again:g} s; given up after {self.limit:g} s without a job of "
            "this cycle (cluster.patience)"
        )
