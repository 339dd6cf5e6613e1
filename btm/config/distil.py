"""Settings of a student: one model that is trained to predict what the ensemble predicts."""

import math
from dataclasses import dataclass

from btm.config.checks import check_choice, check_name, check_names, is_name, require
from btm.config.keys import key

# The ensemble that teaches: the rules `bayes` (BTM, equation 2) and `gated` of the section ensemble
TEACHERS = {"posterior": "bayes", "gated": "gated"}


@dataclass
class DistilConfig:
    """How a student is distilled from a forest (btm/steps/distil/student.py)."""

    name: str | None = key(None, "name of the student; null: none, so btm distil asks for it")
    teacher: str = key(
        "posterior",
        "ensemble that teaches: of the domain's cached prior under rule bayes, or under rule gated",
        tuple(TEACHERS),
    )
    experts: list[str] = key([], "ELMs that teach; empty: every ELM trained on one domain")
    domains: list[str] = key(
        [],
        "domains whose train text the student reads; empty: all that its teachers were trained on",
    )
    steps: int | None = key(None, "optimizer steps of the student; null: trainer.steps")
    init: str = key(
        "token",
        "parameters it begins with: token or uniform, the average of its teachers; seed; "
        "or those of an ELM or average of this name",
    )
    weight: float = key(
        0.9, "share of the divergence from the teacher in the loss; the rest is the text's own loss"
    )
    temperature: float = key(
        1.0, "temperature of teacher and student in the divergence, which is scaled by its square"
    )


def check_distil(distil: DistilConfig) -> None:
    """Raise `UserError` naming the first key of `distil` whose value makes no sense."""
    if distil.name is not None:
        check_name(distil.name, "distil.name")
    check_choice(distil.teacher, "distil.teacher", tuple(TEACHERS))
    check_names(distil.experts, "distil.experts")
    check_names(distil.domains, "distil.domains")
    steps, weight, warmth = distil.steps, distil.weight, distil.temperature
    require(steps is None or steps >= 1, "distil.steps", steps, "wanted 1 or more, or null")
    require(is_name(distil.init), "distil.init", distil.init, "wanted token, uniform, seed or NAME")
    require(0 <= weight <= 1, "distil.weight", weight, "wanted [0, 1]")
    require(0 < warmth < math.inf, "distil.temperature", warmth, "wanted more than 0")
