"""The plan of a step: its results, its inputs and its costs.

Each step has a function ``plan_of_<step>`` beside it that returns its `Plan` and writes nothing.
The step asks it for its own decisions, and ``--dry-run`` shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MANY_EPOCHS = 4  # passes over a text; more are worth less and less (arXiv 2305.16264)


@dataclass(frozen=True)
class Plan:
    """The plan of one step. A step that finds its result in place writes nothing."""

    step: str
    name: str  # of what the step is about: an ELM, an average, an evaluation
    what: str  # in words
    makes: tuple[str, ...] = ()  # names of the ELMs, averages or branches that will be published
    parents: tuple[str, ...] = ()  # ELMs that it starts from or averages
    domains: tuple[str, ...] = ()  # whose text it trains on
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()  # files and folders that will stand afterwards
    steps: int | None = None  # optimizer steps
    tokens: int | None = None  # trained on, or scored; those still to come
    flops: float | None = None
    disk_bytes: int | None = None  # of what is kept; checkpoints come and go
    seconds: float | None = None
    epochs: Mapping[str, float] = field(default_factory=dict)  # passes over each domain's text
    cautions: tuple[str, ...] = ()  # sentences: why its result may be of little use

    @classmethod
    def nothing(cls, step: str, name: str, why: str = "it stands there") -> "Plan":
        """Make the plan of a step that has nothing left to do."""
        return cls(step, name, f"nothing: {why}")

    @property
    def idle(self) -> bool:
        """Tell whether the step has nothing to do."""
        return not self.writes

    def warnings(self) -> list[str]:
        """Write its cautions, and a sentence for each domain whose text is read more than
        `MANY_EPOCHS` times.
        """
        return [*self.cautions, *too_many_epochs(self.name, self.epochs)]


def too_many_epochs(name: str, epochs: Mapping[str, float]) -> list[str]:
    """Write a sentence for each domain that `name` reads more than `MANY_EPOCHS` times."""
    return [
        f"{name} reads the text of {domain} {passes:.1f} times; more than {MANY_EPOCHS} epochs "
        "teach little and risk overfitting: add text, or train fewer steps"
        for domain, passes in epochs.items()
        if passes > MANY_EPOCHS
    ]
