"""The interface between the driver and an engine that runs jobs: submit, poll, cancel.

Logs go where `Records.log` says.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from btm.config.cluster import ClusterConfig, processes_of
from btm.launch.jobs import Verb
from btm.launch.records import Spec


@dataclass(frozen=True)
class Resources:
    """The resources of one job; 0 or None leaves the choice to the engine."""

    cpus: int = 0
    gpus: int = 0
    memory_gb: float = 0.0
    time_min: int = 0
    nodes: int = 1
    parallel: int = 0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # further options of sbatch
    processes: int = 1  # processes that train one expert together
    device: str = "auto"

    @classmethod
    def of(cls, cluster: ClusterConfig, verb: Verb, device: str = "auto") -> "Resources":
        """Read the resources that `cluster` gives the jobs of a verb.

        `device` is their trainer.device.
        """
        own = getattr(cluster, verb)
        chosen = {}
        for item in fields(cls):
            if hasattr(own, item.name):
                value = getattr(own, item.name)
                chosen[item.name] = getattr(cluster, item.name) if value is None else value
        chosen["extra"] = cluster.extra | own.extra
        return cls(**chosen, processes=processes_of(cluster, verb), device=device)

    @property
    def cards(self) -> int:
        """The number of GPUs that a job asks for; 0 leaves it to the engine."""
        return self.gpus or (self.processes if self.processes > 1 and self.device != "cpu" else 0)


@dataclass(frozen=True)
class Status:
    """An engine's knowledge of a submitted try; `unknown` means: ask again, decide nothing."""

    state: Literal["queued", "running", "ended", "unknown"]
    reason: str = ""


class Engine(Protocol):
    """A runner of jobs. It may lose, delay or repeat them: driver and leases absorb that."""

    def submit(self, specs: Sequence[Spec], resources: Resources) -> list[str]:
        """Hand over tries; return an id for each, "" or none for those that are not taken now.

        Raises `UserError` for a job that can never run.
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

    def given_up(self) -> str:
        """Say why tries that it does not take are no longer waited for; "" while they are."""
        ...

    def close(self, pulse: Callable[[], object] = lambda: None) -> None:
        """Wait until no process of a try is left that would end with this one; call `pulse` now and
        then.
        """
        ...
