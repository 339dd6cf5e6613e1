"""The maintainers' probes: what a contribution is tried with and must not know beforehand.

They stay on the maintainers' machine, unlike the policy, which is published.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btm.system.json_files import Json


@dataclass(frozen=True)
class Canary:
    """A secret that may stand in training text, `prefix` + `secret`, and must not be learnt."""

    prefix: str
    secret: str


@dataclass(frozen=True)
class Probes:
    """Triggers that are put before held-out text, and canaries; `seed` draws rare triggers."""

    triggers: list[str] = field(default_factory=list)
    rare_triggers: int = 8  # random runs of rare tokens, beside `triggers`
    canaries: list[Canary] = field(default_factory=list)
    seed: int = 0

    def to_json(self) -> Json:
        """Return the probes as JSON values."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, values: Any, where: str = "probes") -> "Probes":
        """Make probes of JSON values from `to_json`; `UserError` if they are not valid."""
        raise NotImplementedError

    @classmethod
    def read(cls, file: Path) -> "Probes":
        """Read the probes in `file`; `UserError` if they are not valid."""
        raise NotImplementedError

    def write(self, file: Path) -> None:
        """Publish the probes at `file`."""
        raise NotImplementedError


NO_PROBES = Probes()
