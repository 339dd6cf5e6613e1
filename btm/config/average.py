"""Settings of averages of parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from btm.config.checks import (
    check_choice,
    check_models,
    check_name,
    check_names,
    check_seed,
    check_weights,
    require,
)
from btm.config.choices import DTYPES
from btm.config.keys import key
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
# Those that add weighted differences from the base, so that a negative weight subtracts one. ties
# divides by the sum of the weights, which would take a sign back.
SIGNED = ("task_arithmetic", "dare_linear", "dare_ties", "breadcrumbs")
ACCUMULATE = ("float32", "float64")
RESCALE = ("density", "l1", "none")
SEARCHES = ("valid", "tasks")


@dataclass
class AverageConfig:
    """How one model is made of several (btm/models/average/methods.py); its weights are the
    top-level `weights`.
    """

    name: str | None = key(
        None, "name of the average; null: made of its method, weights and domain"
    )
    experts: list[str] = key([], "ELMs that are averaged; empty: every ELM trained on one domain")
    method: str | None = key(
        None,
        "how the parameters are combined; null: linear if weights= is given, else "
        "task_arithmetic of token weights with average.scale=fit",
        AVERAGE_METHODS,
    )
    base: str | None = key(None, "ELM that differences are taken from; null: the seed")
    scale: float | int | str = key(
        1.0, "factor λ on the sum of differences; fit: the one that does best on the valid splits"
    )
    density: float = key(0.5, "fraction of each difference that ties, dare_* and breadcrumbs keep")
    gamma: float = key(
        0.01, "fraction of each difference, its largest entries, that breadcrumbs drops"
    )
    t: float = key(0.5, "position of slerp: 0 is average.base, 1 the other ELM")
    rescale: str = key(
        "density",
        "how dare_* scales the entries it keeps; density: by 1/density; l1: to the same l1 norm",
        RESCALE,
    )
    seed: int = key(0, "seed of the entries that dare_* drops")
    sequences: int = key(100, "valid sequences that fisher estimates its information on")
    layers: Any = key(
        None,
        "weights for single tensors, {pattern of tensor names: {elm: weight}}; the last "
        "pattern that matches counts; null: weights= for all",
    )
    search: str | None = key(
        None,
        "what the weights of a linear average of experts and seed are searched on: valid splits, "
        "by gradient, or tasks=; null: weights= says them",
        SEARCHES,
    )
    budget: int = key(
        32,
        "losses of trainer.valid_tokens, each with its gradient, that a search on valid computes; "
        "averages that one on tasks tries",
    )
    groups: list[str] = key(
        [], "patterns of tensor names; a search finds weights of their own for each; empty: one"
    )
    accumulate: str = key(
        "float32",
        "number type of the sums; float64 gives the closed form rounded once, as in branches",
        ACCUMULATE,
    )
    dtype: str | None = key(None, "number type of the result; null: as stored", DTYPES)
    shard_gb: float = key(
        0.0, "largest size of a weight file, in GB; 0: the files of the first ELM"
    )
    measure: bool = key(
        True,
        "measure the average beside the seed on the valid splits before it is sealed; its "
        "card records the result",
    )


def check_average(average: AverageConfig) -> None:
    """Raise `UserError` naming the first key of `average` whose value makes no sense."""
    for word in ("base", "name"):
        if (name := getattr(average, word)) is not None:
            check_name(name, f"average.{word}")
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
        check_average_weights(weights, average, f"average.layers.{pattern}")
    _check_average_numbers(average)
    _check_search(average)
    if average.method == "slerp" and average.base is None:
        raise UserError(
            "average.method=slerp goes from one ELM to another: give average.base=A "
            "average.experts=[B]"
        )


def check_average_weights(
    weights: Any, average: AverageConfig, key: str = "weights"
) -> dict[str, float]:
    """Return the `weights` of an average as {name: weight}.

    `UserError` if they are not usable, or one is negative and the method takes none.
    """
    found = check_weights(weights, key, signed=True)
    refuse_negative(average.method or "linear", found, key)
    return found


def refuse_negative(method: str, weights: Mapping[str, float], key: str = "weights") -> None:
    """Raise `UserError` if a weight is negative and the method of averaging takes none."""
    name = next((name for name, weight in weights.items() if weight < 0), None)
    if name is not None and method not in SIGNED:
        raise UserError(
            f"{key}.{name}={weights[name]:g}: a negative weight subtracts a model's difference "
            f"from the base, and average.method={method} takes none; those that do: "
            f"{', '.join(SIGNED)}"
        )


def _check_search(average: AverageConfig) -> None:
    """Refuse a search of what has no weights to be searched."""
    require(average.budget >= 1, "average.budget", average.budget, "wanted 1 or more")
    check_models(average.groups, "average.groups")
    if average.search is None:
        return
    check_choice(average.search, "average.search", SEARCHES)
    if average.method not in (None, "linear"):
        raise UserError(
            f"average.search={average.search}: it finds the weights of a linear average, whose "
            f"gradient is exact, and average.method={average.method} is another: leave one out"
        )
    if average.layers:
        raise UserError(
            f"average.search={average.search} finds the weights, and average.layers gives some: "
            "leave one out; average.groups=[PATTERN, …] has layers searched on their own"
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
