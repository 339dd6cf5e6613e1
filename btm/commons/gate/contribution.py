"""A contribution: a folder from a stranger, and what the claim says that it must be."""

from dataclasses import dataclass
from pathlib import Path

from btm.config.checks import check_choice, check_name, check_weights
from btm.errors import UserError

# full: the folder of an ELM; the others are what `btm export format=…` writes.
FORMATS = ("full", "delta8", "delta", "lora")


@dataclass(frozen=True)
class Contribution:
    """A folder from a stranger, the domain and the parents of its claim, and its format.

    `parents` are ELMs of the forest and their weights, as `Forest.branch` takes them. Their
    sha256 is the forest's; the protocol checks that the claim named the same. Raises `UserError`
    for a name, a weight or a format that is none.
    """

    folder: Path
    domain: str
    parents: dict[str, float]
    format: str = "full"

    def __post_init__(self) -> None:
        check_choice(self.format, "format", FORMATS)
        check_name(self.domain, "domain")
        if not self.parents:
            raise UserError("parents: none given; wanted {ELM: weight}")
        check_weights(self.parents, "parents")
