"""The maintainers' probes: what a contribution is tried with and must not know beforehand.

They stay on the maintainers' machine, unlike the policy, which is published.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from btm.config.checks import check_least, check_seed
from btm.errors import UserError, unknown
from btm.system import durable
from btm.system.json_files import Json, read_object

SCHEMA = 1
_KINDS = {"triggers": list, "rare_triggers": int, "canaries": list, "seed": int}


@dataclass(frozen=True)
class Canary:
    """A secret that may stand in training text, `prefix` + `secret`, and must not be learnt."""

    prefix: str
    secret: str


@dataclass(frozen=True)
class Probes:
    """Triggers that are put before held-out text, and canaries; `seed` draws rare triggers."""

    triggers: list[str] = field(default_factory=list)
    rare_triggers: int = 8  # random runs of tokens that held-out text has least, beside `triggers`
    canaries: list[Canary] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, "probes", 0, "rare_triggers")
        check_seed(self.seed, "probes.seed")
        if "" in self.triggers:
            raise UserError("probes.triggers: one is empty")
        if any(not canary.secret for canary in self.canaries):
            raise UserError("probes.canaries: one has an empty secret")

    def to_json(self) -> Json:
        """Return the probes as JSON values."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, where: str = "probes") -> "Probes":
        """Make probes of JSON values from `to_json`; `UserError` if they are not valid."""
        if not isinstance(values, dict):
            raise UserError(f"{where}: wanted a JSON object")
        if values.get("schema", SCHEMA) != SCHEMA:
            raise UserError(f"{where}: schema {values['schema']!r}; this btm reads {SCHEMA}")
        given = {name: value for name, value in values.items() if name != "schema"}
        for name, value in given.items():
            if name not in _KINDS:
                raise unknown("key", str(name), _KINDS, where)
            if type(value) is not _KINDS[name]:
                raise UserError(f"{where}: {name} is no {_KINDS[name].__name__}")
        if not all(isinstance(trigger, str) for trigger in given.get("triggers", [])):
            raise UserError(f"{where}: a trigger is no text")
        canaries = [_canary(each, where) for each in given.pop("canaries", [])]
        return cls(**given, canaries=canaries)

    @classmethod
    def read(cls, file: Path) -> "Probes":
        """Read the probes in `file`; `UserError` if they are not valid."""
        return cls.from_json(read_object(file), str(file))

    def write(self, file: Path) -> None:
        """Publish the probes at `file`."""
        durable.write_json(file, self.to_json())


def _canary(values: Any, where: str) -> Canary:
    wanted = {"prefix", "secret"}
    if not isinstance(values, dict) or values.keys() != wanted:
        raise UserError(f"{where}: a canary is no object of prefix and secret")
    if not all(isinstance(text, str) for text in values.values()):
        raise UserError(f"{where}: the prefix or the secret of a canary is no text")
    return Canary(**values)


NO_PROBES = Probes()
