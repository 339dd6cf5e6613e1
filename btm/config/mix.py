"""Settings of `btm mix`; part of `btm.config.schema`."""

import math
from dataclasses import dataclass
from typing import Any

from btm.config.checks import check_least, check_seed, check_weights, require
from btm.config.keys import key
from btm.errors import UserError

MOST = 10_000  # samples: more would fill a disk with scores


@dataclass
class MixConfig:
    """Which mixtures of domains are ranked, and by what average of their experts."""

    candidates: Any = key(
        [], "mixtures that are ranked, [{expert: weight}, …]; an expert stands for its domain"
    )
    samples: int = key(0, "mixtures of all experts that are drawn from a Dirichlet, and ranked too")
    seed: int = key(0, "seed of the samples")
    concentration: float = key(
        1.0, "concentration of the Dirichlet; below 1 few experts share a mixture, above 1 all do"
    )
    scale: float = key(
        0.25,
        "how far the average is drawn from the seed to the experts; 1: the plain average of "
        "arXiv 2410.15661",
    )


def check_mix(mix: MixConfig) -> None:
    """Raise `UserError` naming the first key of `mix` whose value makes no sense."""
    wanted = "wanted [{expert: weight, …}, …], as in mix.candidates='[{law: 0.5, med: 0.5}]'"
    require(isinstance(mix.candidates, list), "mix.candidates", mix.candidates, wanted)
    shares = []
    for number, mixture in enumerate(mix.candidates):
        if not isinstance(mixture, dict):
            raise UserError(f"mix.candidates[{number}]={mixture!r}: {wanted}")
        shares.append(normal(check_weights(mixture, f"mix.candidates[{number}]")))
    for number, share in enumerate(shares):
        if share in shares[:number]:
            raise UserError(
                f"mix.candidates[{number}]: the mixture of mix.candidates[{shares.index(share)}] "
                "once more; leave one out"
            )
    check_least(mix, "mix", 0, "samples")
    require(mix.samples <= MOST, "mix.samples", mix.samples, f"wanted {MOST:,} at most")
    check_seed(mix.seed, "mix.seed")
    for word in ("concentration", "scale"):
        value = getattr(mix, word)
        require(0 < value < math.inf, f"mix.{word}", value, "wanted a number above 0")
    require(mix.scale <= 1, "mix.scale", mix.scale, "wanted (0, 1]")


def normal(weights: dict[str, float]) -> dict[str, float]:
    """Scale the weights of a mixture to sum to 1, rounded to 4 digits, and drop the zeros."""
    whole = sum(weights.values())
    scaled = {name: round(weight / whole, 4) for name, weight in sorted(weights.items())}
    return {name: weight for name, weight in scaled.items() if weight > 0}
