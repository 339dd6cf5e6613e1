"""Settings of a mixture of experts (MoE): the ELMs' feed-forward networks behind a router."""

import math
from dataclasses import dataclass

from btm.config.checks import (
    check_choice,
    check_least,
    check_name,
    check_names,
    check_seed,
    require,
)
from btm.config.keys import key
from btm.errors import UserError

SUMMED = ("ridge", "domain")  # made of sums of hidden states, so that an ELM joins or leaves
TRAINED = ("btx", "base")  # made by training
MOE_ROUTERS = (*SUMMED, "random", *TRAINED)
MOE_READERS = ("average", "seed", "expert")
MOE_TRAINED = ("router", "all")


@dataclass
class MoeConfig:
    """How a mixture of experts is made of the ELMs of a forest; the weights of what is averaged in
    it are the top-level `weights`.
    """

    name: str | None = key(None, "name of the mixture of experts; null: that of its router")
    experts: list[str] = key(
        [], "ELMs whose feed-forward networks it has; empty: every ELM trained on one domain"
    )
    router: str = key("ridge", "how its router is made", MOE_ROUTERS)
    top_k: int | None = key(None, "experts that a token runs; null: 2, or 1 under moe.router=base")
    ridge: float = key(1.0, "λ of moe.router=ridge: added to the diagonal of XᵀX")
    tokens: int = key(
        16384,
        "train tokens of each domain, at most, that are read for moe.router=ridge and domain: its "
        "first whole documents, one at least",
    )
    reader: str = key(
        "average",
        "whose hidden states they are: the plain average of the ELMs, the seed, or each "
        "domain's own expert",
        MOE_READERS,
    )
    seed: int = key(0, "seed of the rows of moe.router=random, with which btx and base begin")
    steps: int = key(120, "training steps of moe.router=btx and base")
    train: str = key("router", "which weights moe.router=btx and base train", MOE_TRAINED)
    balance: float = key(0.01, "weight of the load-balancing loss of moe.router=btx")
    add: list[str] = key([], "ELMs that join a mixture that stands, by their sums alone")
    remove: list[str] = key([], "ELMs that leave a mixture that stands, by their sums alone")


def check_moe(moe: MoeConfig) -> None:
    """Raise `UserError` naming the first key of `moe` whose value makes no sense."""
    if moe.name is not None:
        check_name(moe.name, "moe.name")
    for word in ("experts", "add", "remove"):
        check_names(getattr(moe, word), f"moe.{word}")
    check_choice(moe.router, "moe.router", MOE_ROUTERS)
    check_choice(moe.reader, "moe.reader", MOE_READERS)
    check_choice(moe.train, "moe.train", MOE_TRAINED)
    check_least(moe, "moe", 1, "tokens", "steps")
    check_seed(moe.seed, "moe.seed")
    positive = math.isfinite(moe.ridge) and moe.ridge > 0
    require(positive, "moe.ridge", moe.ridge, "wanted more than 0")
    fraction = math.isfinite(moe.balance) and moe.balance >= 0
    require(fraction, "moe.balance", moe.balance, "wanted 0 or more")
    if moe.top_k is not None:
        check_least(moe, "moe", 1, "top_k")
        if moe.router == "base" and moe.top_k != 1:
            raise UserError(
                f"moe.top_k={moe.top_k}: moe.router=base sends each token to one expert: leave it "
                "out"
            )
    if moe.add and moe.remove:
        raise UserError("moe.add and moe.remove: one at a time; leave out one")
