"""The outcome of the gate: each check with its value, its bound and a reason in one line."""

import math
from dataclasses import asdict, dataclass, field

from btm.errors import UserError
from btm.system.json_files import Json


class RefusedError(UserError):
    """A contribution that fails a check, by the check's name."""

    def __init__(self, check: str, why: str) -> None:
        super().__init__(why)
        self.check = check


@dataclass(frozen=True)
class Check:
    """One check: whether it passed, the number that decided and the bound that it is held to."""

    name: str
    passed: bool
    reason: str  # one line of plain English, without the stranger's own words
    value: float | None = None  # None where no number decides
    bound: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks that were made, in order, and facts for the card of what enters."""

    checks: list[Check]
    complete: bool  # whether every check was made; False after one that nothing could follow
    sha256: str = ""  # of the restored weights; empty if they could not be restored
    valid_nats: float | None = None  # own domain, nats per token, measured here
    parent_valid_nats: dict[str, float] = field(default_factory=dict)  # the same, of each parent
    memory: dict[str, float] = field(default_factory=dict)  # what the memorisation probe found
    sender: Json = field(default_factory=dict)  # tokens, steps, … of its card: the sender's word

    @property
    def admitted(self) -> bool:
        """Whether every check was made and passed."""
        return self.complete and all(check.passed for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def reason(self) -> str:
        """Say in one line why it was refused; empty if it was admitted."""
        return "; ".join(f"{check.name}: {check.reason}" for check in self.failed)

    def to_json(self) -> Json:
        """Return the verdict as JSON values, for the store, the card and the log.

        A value that is infinite or NaN, which JSON has not, is null; the reason has it.
        """
        made = {"admitted": self.admitted, **asdict(self)}
        for check in made["checks"]:
            if check["value"] is not None and not math.isfinite(check["value"]):
                check["value"] = None
        return made
