"""Checks of what comes from outside; each `UserError` names the key, what was found and what was
wanted.
"""

import math
import re
import unicodedata
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from btm.errors import UserError, nearest

_CONTROLS = ("Cc", "Zl", "Zp")  # of Unicode: control characters, ends of lines and paragraphs
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_name(name: str) -> bool:
    """Tell whether `name` can name a folder of a forest; one that leads out of its folder
    cannot.
    """
    return NAME.fullmatch(name) is not None


def check_name(name: str, key: str) -> str:
    """Return `name`, or raise `UserError` if it cannot name a folder of a forest."""
    if not is_name(name):
        raise UserError(
            f"{key}={name[:100]!r} is no valid name: 1 to 63 of a-z 0-9 . _ - that start with a "
            "letter or digit"
        )
    return name


def check_choice(value: str, key: str, choices: tuple[str, ...]) -> str:
    """Return `value`, or raise `UserError` if it is none of `choices`."""
    if value not in choices:
        raise UserError(
            f"{key}={value!r}: choose one of {', '.join(choices)}{nearest(value, choices)}"
        )
    return value


def check_moment(text: str | None, key: str) -> str:
    """Return a moment as the cards write it (UTC, ISO 8601), "" for None; `UserError` if it is
    none.
    """
    try:
        when = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UserError(
            f"{key}={text!r}: wanted a day or a moment, 2026-11-25 or 2026-11-25T13:00"
        ) from None
    if when is None:
        return ""
    return (
        (when if when.tzinfo else when.replace(tzinfo=UTC))
        .astimezone(UTC)
        .isoformat(timespec="seconds")
    )


def check_weights(weights: Any, key: str = "weights", *, signed: bool = False) -> dict[str, float]:
    """Return `weights` as {name: weight}, or raise `UserError` if they are no usable weights.

    Only `signed` ones may be negative.
    """
    if not isinstance(weights, dict) or not weights:
        raise UserError(
            f"{key}={weights!r}: wanted {{name: weight, …}}, as in {key}='{{law: 0.7, med: 0.3}}'"
        )
    for name, weight in weights.items():
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not math.isfinite(weight)
            or (weight < 0 and not signed)
        ):
            kind = "a finite number" if signed else "a finite number that is not negative"
            raise UserError(f"{key}.{name}={weight!r}: wanted {kind}")
    if not any(weights.values()):
        raise UserError(f"{key}: all weights are 0; at least one must be positive")
    return {str(name): float(weight) for name, weight in weights.items()}


def require(true: bool, key: str, value: object, wanted: str) -> None:
    """Raise `UserError` unless `true`."""
    if not true:
        raise UserError(f"{key}={value}: {wanted}")


def check_least(section: Any, prefix: str, least: int, *names: str) -> None:
    """Raise `UserError` unless the fields `names` of a section are finite and at least `least`."""
    for name in names:
        value = getattr(section, name)
        is_enough = least <= value < float("inf")
        require(is_enough, f"{prefix}.{name}", value, f"wanted {least} or more")


def check_fraction(section: Any, prefix: str, *names: str) -> None:
    """Raise `UserError` unless the fields `names` of a section are in [0, 1)."""
    for name in names:
        value = getattr(section, name)
        require(0 <= value < 1, f"{prefix}.{name}", value, "wanted [0, 1)")


def check_power(alpha: float | None, key: str) -> None:
    """Raise `UserError` unless `alpha`, the power of a mix of domains, is null or in [0, 1]."""
    require(alpha is None or 0 <= alpha <= 1, key, alpha, "wanted [0, 1], or null")


def check_seed(seed: int, key: str) -> None:
    """Raise `UserError` unless `seed` fits 32 bits."""
    require(0 <= seed < 2**32, key, seed, "wanted 0 to 2³² - 1")


def check_path(path: str | None, key: str) -> None:
    """Raise `UserError` if `path` is empty; null is allowed."""
    require(path != "", key, repr(path), "wanted a path, or null")


def check_printable(value: Any, key: str, free: Collection[str] = ()) -> None:
    """Raise `UserError` if a text anywhere in `value` holds a control character, such as a newline.

    `value` may be a dataclass, a dictionary or a list; keys in `free` may hold any text. A newline
    in a path would begin a command of its own in a batch script, whatever is quoted there.
    """
    if key in free:
        return
    if isinstance(value, str):
        wrong = next((c for c in value if unicodedata.category(c) in _CONTROLS), None)
        if wrong is not None:
            raise UserError(
                f"{key}={value[:100]!r}: holds the control character {wrong!r}; wanted a path or "
                "a name without any"
            )
    elif is_dataclass(value):
        for item in fields(value):
            inner = f"{key}.{item.name}" if key else item.name
            check_printable(getattr(value, item.name), inner, free)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_printable(str(name), key, free)
            check_printable(inner, f"{key}.{name}", free)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_printable(inner, key, free)


def check_names(names: list[str], key: str) -> None:
    """Raise `UserError` unless `names` can all name folders of a forest and differ."""
    for name in names:
        if not is_name(name):
            raise UserError(
                f"{key}: {name[:100]!r} is no valid name: 1 to 63 of a-z 0-9 . _ - that start with "
                f"a letter or digit; several have commas between them, {key}=law,med"
            )
    _check_differ(names, key)


def check_models(names: Any, key: str) -> None:
    """Raise `UserError` unless `names` is a list of different words: names of models or folders."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{key}={names!r}: wanted [NAME, …], each of them a name or a folder")
    _check_differ(names, key)


def _check_differ(names: list[str], key: str) -> None:
    if len(set(names)) < len(names):
        raise UserError(f"{key}={names}: a name stands there twice")


# Values of earlier versions, as settings.json and the records of cycles may still hold them.
_EARLIER = {"ensemble.carry": {False: "window", True: "document"}}


def renewed(key: str, value: Any) -> Any:
    """Translate a recorded value of a dotted key that an earlier version wrote; others stay."""
    return _EARLIER[key].get(value, value) if key in _EARLIER else value


def fill(node: Any, values: dict[str, Any], prefix: str = "") -> Any:
    """Return the dataclass `node` with `values`, nested ones in nested dataclasses; a key it lacks
    is a `UserError`.
    """
    known = {item.name for item in fields(node)}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"no key {prefix + key!r} in this version of btm")
        inner, dotted = getattr(node, key), prefix + key
        value = fill(inner, value, f"{dotted}.") if is_dataclass(inner) else renewed(dotted, value)
        setattr(node, key, value)
    return node
