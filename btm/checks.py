"""Checks of single values from outside; each `UserError` names the key, what was found and what was wanted."""

import re
from typing import Any

from btm.errors import UserError, nearest

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")


def check_name(name: str, key: str) -> str:
    """Return `name`, or raise `UserError` if it cannot name a folder of a forest."""
    if not NAME.match(name):
        raise UserError(
            f"{key}={name!r} is no valid name: 1 to 63 of a-z 0-9 . _ - that start with a letter or digit"
        )
    return name


def check_choice(value: str, key: str, choices: tuple[str, ...]) -> str:
    """Return `value`, or raise `UserError` if it is none of `choices`."""
    if value not in choices:
        raise UserError(f"{key}={value!r}: choose one of {', '.join(choices)}{nearest(value, choices)}")
    return value


def check_weights(weights: Any, key: str = "weights") -> dict[str, float]:
    """Return `weights` as {name: weight}, or raise `UserError` if they are no usable weights."""
    if not isinstance(weights, dict) or not weights:
        raise UserError(
            f"{key}={weights!r}: wanted {{name: weight, …}}, as in {key}='{{law: 0.7, med: 0.3}}'"
        )
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"{key}.{name}={weight!r}: wanted a finite number that is not negative")
    if sum(weights.values()) <= 0:
        raise UserError(f"{key}: all weights are 0; at least one must be positive")
    return {str(name): float(weight) for name, weight in weights.items()}


def require(true: bool, key: str, value: object, wanted: str) -> None:
    """Raise `UserError` unless `true`."""
    if not true:
        raise UserError(f"{key}={value}: {wanted}")
