"""Recipes of averages that are measured without being written: the values of `averages=`.

A recipe has the words of `btm average`: a word for the weights, the weights themselves, or
{weights: …, method: …, scale: …} with the keys of the section `average`.
"""

from dataclasses import dataclass, replace
from typing import Any

from btm.config.average import AverageConfig, check_average, check_average_weights
from btm.config.checks import check_choice, check_models, check_name, require
from btm.config.choices import AVERAGE_WEIGHTS
from btm.errors import UserError, unknown

# What must try, estimate or write models of its own before there is an average.
_SEARCHES = ("greedy_soup", "fisher")
# Keys of the section `average` that say nothing about the parameters, or have them searched.
WITHOUT_EFFECT = ("name", "measure", "search", "budget", "groups")
_NUMBERS = (int, float)
# The others, and what they take.
TYPES: dict[str, tuple[type, ...]] = {
    "experts": (list,),
    "method": (str,),
    "base": (str,),
    "scale": (*_NUMBERS, str),
    "density": _NUMBERS,
    "gamma": _NUMBERS,
    "t": _NUMBERS,
    "rescale": (str,),
    "seed": (int,),
    "sequences": (int,),
    "layers": (dict,),
    "accumulate": (str,),
    "dtype": (str,),
    "shard_gb": _NUMBERS,
}


@dataclass(frozen=True)
class Recipe:
    """How one average is made."""

    name: str  # of its row
    weights: str | dict[str, float]  # a word, or {ELM: weight}
    domain: str | None  # that a word fits the weights for; None: all training domains
    average: AverageConfig


def recipes(averages: Any, settings: AverageConfig) -> list[Recipe]:
    """Read `averages`, {name: recipe}; what a recipe leaves open is as `settings` have it.

    Raises `UserError` naming the first recipe that makes no sense.
    """
    if averages is None:
        return []
    if not isinstance(averages, dict) or not averages:
        raise UserError(
            f"averages={averages!r}: wanted {{NAME: recipe, …}}, as in "
            "averages='{a: {law: 0.5, med: 0.5}, b: uniform}'"
        )
    return [_recipe(str(name), asked, settings) for name, asked in averages.items()]


def _recipe(name: str, asked: Any, settings: AverageConfig) -> Recipe:
    key = f"averages.{name}"
    check_name(name, "averages")
    given = _long_form(key, asked)
    weights, domain = given.pop("weights", "uniform"), given.pop("domain", None)
    if domain is not None:
        require(isinstance(domain, str), f"{key}.domain", domain, "wanted the name of a domain")
        check_name(domain, f"{key}.domain")
    average = _average(key, given, settings)
    if isinstance(weights, str):
        check_choice(weights, f"{key}.weights", AVERAGE_WEIGHTS)
        require(
            domain is None or weights != "uniform",
            f"{key}.domain",
            domain,
            "uniform weights are the same for every domain: leave it out",
        )
        return Recipe(name, weights, domain, average)
    found = check_average_weights(weights, average, f"{key}.weights")
    require(domain is None, f"{key}.domain", domain, "the weights are given: leave it out")
    require(not average.experts, f"{key}.experts", average.experts, "the weights name the ELMs")
    return Recipe(name, found, None, average)


def _long_form(key: str, asked: Any) -> dict[str, Any]:
    """Write a recipe with all its keys: a word and {ELM: number} are weights."""
    if isinstance(asked, str):
        return {"weights": asked}
    if not isinstance(asked, dict) or not asked:
        raise UserError(
            f"{key}={asked!r}: wanted a word ({', '.join(AVERAGE_WEIGHTS)}), {{ELM: weight, …}} "
            "or {weights: …, method: …}"
        )
    known = ("weights", "domain", *TYPES)
    if all(isinstance(value, _NUMBERS) and not isinstance(value, bool) for value in asked.values()):
        return {"weights": dict(asked)}
    for word in asked:
        if word in WITHOUT_EFFECT:
            raise UserError(f"{key}.{word} has no effect here: it is a key of btm average")
        if word not in known:
            raise unknown("key", f"{key}.{word}", [f"{key}.{each}" for each in known])
    return dict(asked)


def _average(key: str, given: dict[str, Any], settings: AverageConfig) -> AverageConfig:
    """Lay the keys of a recipe over `settings`, and check them as those of `btm average` are."""
    for word, value in given.items():
        fits = isinstance(value, TYPES[word]) and not isinstance(value, bool)
        kinds = " or ".join(kind.__name__ for kind in TYPES[word])
        require(fits, f"{key}.{word}", value, f"wanted {kinds}")
    if "experts" in given:
        check_models(given["experts"], f"{key}.experts")
    base = replace(settings, name=None, search=None, budget=AverageConfig.budget, groups=[])
    # A scale or an expert that the forest records belongs to the average that it records.
    if given.get("method", settings.method) != settings.method or settings.scale == "fit":
        base = replace(base, scale=1.0)
    average = replace(base, **given)
    average = replace(average, method=average.method or "linear")
    try:
        check_average(average)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if average.method in _SEARCHES or average.scale == "fit":
        what = f"method={average.method}" if average.method in _SEARCHES else "scale=fit"
        raise UserError(
            f"{key}: {what} makes or estimates something of its own first: make it with btm average"
        )
    return average
