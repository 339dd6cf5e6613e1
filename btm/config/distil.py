"""Settings of a student: one model that is trained to predict what the ensemble predicts."""

from dataclasses import dataclass

from btm.config.checks import check_name
from btm.config.keys import key


@dataclass
class DistilConfig:
    """How a student is distilled from a forest."""

    name: str | None = key(None, "name of the student that is meant; null: none")


def check_distil(distil: DistilConfig) -> None:
    """Raise `UserError` naming the first key of `distil` whose value makes no sense."""
    if distil.name is not None:
        check_name(distil.name, "distil.name")
