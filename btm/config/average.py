"""Settings of averages of parameters."""

import math
from dataclasses import dataclass, field
from typing import Any

from btm.config.checks import (
    check_choice,
    check_name,
    check_names,
    check_seed,
    check_weights,
    require,
)
from btm.config.choices import DTYPES
from btm.errors import UserError

AVERAGE_METHODS = (
    "linear",
    "slerp",
    "task_arithmetic",
    "ties",
    "dare_ties",
    "dare_linear",
    "breadcrumbs",
    "model_stock",
    "fisher",
    "greedy_soup",
)
# what average.scale multiplies
SCALED = ("task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs")
ACCUMULATE = ("float32", "float64")
RESCALE = ("density", "l1", "none")


@dataclass
class AverageConfig:
    """How one model is made of several (btm/models/average/methods.py); its weights are the
    top-level `weights`.
    """

    name: str | None = None  # null: made of method, weights and domain
    experts: list[str] = field(default_factory=list)  # empty: every ELM trained on one domain
    # linear | slerp | task_arithmetic | ties | dare_ties | dare_linear | breadcrumbs | model_stock
    # | fisher | | greedy_soup; null: linear of weights=; without weights=, task_arithmetic of token
    # weights with scale=fit
    method: str | None = None
    base: str | None = None  # the ELM that differences are taken from; null: the seed
    scale: float | int | str = 1.0  # λ, on the sum of differences | fit: what does best on valid
    density: float = 0.5  # share of each difference that ties, dare and breadcrumbs keep
    gamma: float = 0.01  # share of each difference, its largest entries, that breadcrumbs drops
    t: float = 0.5  # of slerp: 0 is the base, 1 the other ELM
    rescale: str = "density"  # of what dare keeps: density (1/density) | l1 | none
    seed: int = 0  # of what dare drops
    sequences: int = 100  # valid windows that fisher estimates its information on
    # {pattern of tensors' names: {elm: weight}}; of several that match, the last counts
    layers: Any = None
    accumulate: str = "float32"  # or float64
    dtype: str | None = None  # of the parameters: fp32 | bf16 | fp16; null: as stored
    shard_gb: float = 0.0  # of a weight file, at most; 0: the files of the first ELM
    # on valid splits, beside the seed, before it is sealed; its card says what came of it
    measure: bool = True


def check_average(average: AverageConfig) -> None:
    """Raise `UserError` naming the first key of `average` whose value makes no sense."""
    for key in ("base", "name"):
        if (name := getattr(average, key)) is not None:
            check_name(name, f"average.{key}")
    check_names(average.experts, "average.experts")
    if average.method is not None:
        check_choice(average.method, "average.method", AVERAGE_METHODS)
    check_choice(average.accumulate, "average.accumulate", ACCUMULATE)
    check_choice(average.rescale, "average.rescale", RESCALE)
    if average.dtype is not None:
        check_choice(average.dtype, "average.dtype", DTYPES)
    layers = average.layers or {}
    require(
        isinstance(layers, dict), "average.layers", layers, "wanted {pattern: {elm: weight, …}, …}"
    )
    for pattern, weights in layers.items():
        check_weights(weights, f"average.layers.{pattern}")
    _check_average_numbers(average)
    if average.method == "slerp" and average.base is None:
        raise UserError(
            "average.method=slerp goes from one ELM to another: give average.base=A "
            "average.experts=[B]"
        )


def _check_average_numbers(average: AverageConfig) -> None:
    require(0 < average.density <= 1, "average.density", average.density, "wanted (0, 1]")
    require(0 <= average.gamma < 1, "average.gamma", average.gamma, "wanted [0, 1)")
    require(0 <= average.t <= 1, "average.t", average.t, "wanted [0, 1]")
    scale, size = average.scale, average.shard_gb
    if isinstance(scale, str):
        is_fit = scale == "fit" and average.method in (None, *SCALED)
        wanted = f"wanted a number, or fit under one of {', '.join(SCALED)}"
        require(is_fit, "average.scale", scale, wanted)
    else:
        require(math.isfinite(scale), "average.scale", scale, "wanted a finite number")
    check_seed(average.seed, "average.seed")
    require(average.sequences >= 1, "average.sequences", average.sequences, "wanted 1 or more")
    require(size == 0 or 1e-6 <= size < 1e6, "average.shard_gb", size, "wanted gigabytes, or 0")
