"""Declare the keys of a section: each default with its meaning, its unit and its choices.

`--help` (btm/cli/help.py) and docs/settings.md (btm/cli/reference.py) are made of these.
"""

from copy import deepcopy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

_MEANING, _CHOICES = "meaning", "choices"


def key(default: Any, meaning: str, choices: tuple[Any, ...] = ()) -> Any:
    """Declare a field of a section's dataclass, as `dataclasses.field` does.

    `meaning` is one line in plain English with the unit; `choices` are the words that the key takes
    where these are all it takes, or those that it takes beside other values. Each configuration
    gets its own copy of a list or a dictionary.
    """
    notes = {_MEANING: meaning, _CHOICES: choices}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=notes)
    return field(default=default, metadata=notes)


@dataclass(frozen=True)
class Key:
    """A key of the configuration, as its dataclass declares it."""

    name: str  # with its section: trainer.lr
    type: str  # as written: int | None
    default: Any
    meaning: str
    choices: tuple[Any, ...]

    @property
    def section(self) -> str:
        """The first part of `name`; empty for a key of no section."""
        return self.name.partition(".")[0] if "." in self.name else ""


def keys_of(section: Any, prefix: str = "") -> list[Key]:
    """List the keys of a dataclass and of those nested in it, in the order of their declaration."""
    found = []
    for item in fields(section):
        value, name = getattr(section, item.name), prefix + item.name
        found += keys_of(value, f"{name}.") if is_dataclass(value) else [_key(item, name, value)]
    return found


def _key(item: Field[Any], name: str, value: Any) -> Key:
    # str(int) is "<class 'int'>", while str(int | None) is as written.
    written = item.type.__name__ if type(item.type) is type else str(item.type)
    meaning, choices = item.metadata[_MEANING], item.metadata[_CHOICES]
    return Key(name, written.replace("typing.", ""), value, meaning, choices)
