"""Settings of a mixture of experts (MoE): the ELMs' feed-forward networks behind a router."""

from dataclasses import dataclass

from btm.config.checks import check_name
from btm.config.keys import key


@dataclass
class MoeConfig:
    """How a mixture of experts is made of the ELMs of a forest."""

    name: str | None = key(None, "name of the mixture of experts that is meant; null: none")


def check_moe(moe: MoeConfig) -> None:
    """Raise `UserError` naming the first key of `moe` whose value makes no sense."""
    if moe.name is not None:
        check_name(moe.name, "moe.name")
