"""The seam between the driver and what runs jobs: submit, poll, cancel. Logs are where
`Records.log` says.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from btm.config.checks import processes_of
from btm.config.cluster import ClusterConfig
from btm.launch.jobs import Verb
from btm.launch.records import Spec


@dataclass(frozen=True)
class Resources:
    """What one job gets; 0 or None leaves it to the engine."""

    cpus: int = 0
    gpus: int = 0
    memory_gb: float = 0.0
    time_min: int = 0
    nodes: int = 1
    parallel: int = 0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    processes: int = 1  # that train one expert together
    device: str = "auto"

    @classmethod
    def of(cls, cluster: ClusterConfig, verb: Verb, device: str = "auto") -> "Resources":
        """Return what `cluster` gives the jobs of a verb, whose trainer.device is `device`."""
        own = getattr(cluster, verb)
        chosen = {}
        for item in fields(cls):
            if hasattr(own, item.name):
                value = getattr(own, item.name)
                chosen[item.name] = getattr(cluster, item.name) if value is None else value
        return cls(**chosen, processes=processes_of(cluster, verb), device=device)

    @property
    def cards(self) -> int:
        """How many GPUs a job asks for; 0 leaves it to the engine."""
        return self.gpus or (self.processes if self.processes > 1 and self.device != "cpu" else 0)


@dataclass(frozen=True)
class Status:
    """What an engine knows of a submitted try. `unknown` means: ask again, decide nothing."""

    state: Literal["queued", "running", "ended", "unknown"]
    reason: str = ""


class Engine(Protocol):
    """What runs jobs. It may lose, delay or repeat them; the driver and the leases keep the result
    exact.
    """

    def submit(self, specs: Sequence[Spec], resources: Resources) -> list[str]:
        """Hand over tries; return an id for each, "" or none for what is not taken now.

        Raises `UserError` for what can never run.
        """
        ...

    def poll(self, ids: Collection[str]) -> dict[str, Status]:
        """Return the status of every id, with one question for all of them."""
        ...

    def cancel(self, ids: Collection[str]) -> None:
        """Ask jobs to save and stop, or never to start."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep until something may have changed, at most `seconds`."""
        ...
