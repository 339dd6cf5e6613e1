"""The fields of signed objects: the check that each value must pass. All of it is from outside."""

import re
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from typing import Any

from btm.commons.signed import RefusedError
from btm.config.checks import is_name

MOST_SHOWN = 300  # characters of a text for people
_LARGEST = 1 << 60
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMONS = re.compile(r"[0-9a-f]{32}")
_OBJECT = re.compile(r"[a-z0-9/._@-]{1,300}")
_SEAT = re.compile(
    r"@([2-9]|[1-9]\d{1,2})"
)  # after the domain; the first seat is the domain's own claim
Check = Callable[[Any], bool]


def said(
    check: Check,
    each: "type[Any] | None" = None,
    one: "type[Any] | None" = None,
    default: Any = MISSING,
) -> Any:
    """Declare a field by the check of its value; if it is `one` dataclass, or a map with `each`
    value a dataclass, also by that. An object without a field that has a `default` is older.
    """
    return field(default=default, metadata={"check": check, "each": each, "one": one})


def read(kind: type[Any], values: Any, where: str) -> Any:
    """Make a dataclass of JSON values; `RefusedError` unless it has exactly its fields, as they
    should be.
    """
    known = {each.name: each for each in fields(kind)}
    needed = {name for name, each in known.items() if each.default is MISSING}
    if not isinstance(values, dict) or not needed <= values.keys() <= known.keys():
        wanted = ", ".join(known)
        raise RefusedError("damaged", f"{where}: not a {kind.__name__.lower()}: wanted {wanted}")
    made = {}
    for name, value in values.items():
        each = known[name]
        if not each.metadata["check"](value):
            raise RefusedError("damaged", f"{where}: {name} is {str(value)[:60]!r}")
        if (inner := each.metadata["each"]) is not None:
            value = {k: read(inner, v, f"{where}: {name}.{k}") for k, v in value.items()}
        if (inner := each.metadata["one"]) is not None and value is not None:
            value = read(inner, value, f"{where}: {name}")
        made[name] = value
    return kind(**made)


def is_any(value: Any) -> bool:
    """Accept a value that is checked elsewhere."""
    return True


def is_bool(value: Any) -> bool:
    """Tell whether a value is true or false."""
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number from 0."""
    return type(value) is int and 0 <= value <= _LARGEST


def is_positive(value: Any) -> bool:
    """Tell whether a value is a whole number from 1."""
    return is_count(value) and value > 0


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number from 0."""
    return type(value) in (int, float) and 0 <= value < _LARGEST


def is_momentum(value: Any) -> bool:
    """Tell whether a value is a momentum."""
    return is_number(value) and value < 1


def is_sha256(value: Any) -> bool:
    """Tell whether a value is a sha256 in hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_commons(value: Any) -> bool:
    """Tell whether a value may be the identity of a commons."""
    return isinstance(value, str) and _COMMONS.fullmatch(value) is not None


def is_domain(value: Any) -> bool:
    """Tell whether a value may name a domain or an ELM."""
    return isinstance(value, str) and is_name(value)


def is_seat(value: Any) -> bool:
    """Tell whether a value may name a seat: a domain, or one of its further seats, as ``law@2``."""
    if not isinstance(value, str):
        return False
    domain, mark, _ = value.partition("@")
    return is_name(domain) and (not mark or _SEAT.fullmatch(value[len(domain) :]) is not None)


def is_object(value: Any) -> bool:
    """Tell whether a value may name an object of a store."""
    return isinstance(value, str) and _OBJECT.fullmatch(value) is not None


def is_text(value: Any) -> bool:
    """Tell whether a value is a short text that can be shown."""
    return isinstance(value, str) and len(value) <= MOST_SHOWN and value.isprintable()


def by(names: Check, values: Check) -> Check:
    """Make the check of a map from that of its names and that of its values."""

    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(names(k) and values(v) for k, v in value.items())

    return check


def list_of(check: Check) -> Check:
    """Make the check of a list from that of its elements."""
    return lambda value: isinstance(value, list) and all(map(check, value))
