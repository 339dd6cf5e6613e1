"""Read the value of a word ``key=value`` by the type of its key; hydra's grammar has no part in it.

Text is what the shell hands over, character by character: a comma, a bracket, a blank, `$` and `=`
are characters like others. A `~` at the start of a path is the home folder, and `null` alone means
none where a key may have none. Lists and maps have the forms of `btm.cli.grammar`.
"""

import os
from collections.abc import Callable
from typing import Any

from btm.cli import grammar
from btm.config.keys import Key
from btm.config.validation import FREE
from btm.errors import UserError

Read = Callable[[Key, str], Any]

# What begins with a `~` there is no path; data.made_by and cluster.setup are for a shell, which
# expands it itself.
_NO_PATHS = (*FREE, "data.made_by")
# The right form of a list or a map whose type does not say it.
_EXAMPLES = {
    "weights": "weights=law:0.7,med:0.3",
    "mix.candidates": "mix.candidates='[{law: 0.5, med: 0.5}]'",
    "averages": "averages='{a: {law: 0.5, med: 0.5}, b: uniform}'",
    "average.layers": "average.layers='{*.mlp.*: {law: 1.0}}'",
    "serve.remote": "serve.remote='{law: {url: http://HOST:8000/v1, model: law}}'",
    "card.sources": "card.sources='[{name: NAME, license: cc-by-4.0, url: https://…}]'",
    "run.rounds": "run.rounds=[[law,med],[biolaw]]",
    "cluster.setup": "cluster.setup='[module load cuda]'",
}


def read(key: Key, text: str) -> Any:
    """Read a value of `key`; a `UserError` says what was wanted, and shows the form of a list or a
    map.
    """
    if text == "null" and key.type.endswith(("None", "Any")) and key.name not in FREE:
        return None
    try:
        return _reader(key)(key, text)
    except ValueError as error:
        raise UserError(f"{key.name}={text}: {error}; wanted {_right(key)}") from None


def read_untyped(name: str, text: str) -> Any:
    """Read a value of the open key `name`, as of model.config.<field>."""
    try:
        return grammar.value_of(text)
    except ValueError as error:
        raise UserError(f"{name}={text}: {error}; quote it: {name}='\"…\"'") from None


def _reader(key: Key) -> Read:
    kind = key.type.removesuffix(" | None")
    if kind == "Any":
        return _OF_ANY_TYPE[key.name]
    return _map if kind.startswith("dict[") else _BY_TYPE.get(kind, _plain)


def _plain(key: Key, text: str) -> Any:
    """Read a number or a switch, or for a key of several types what it looks like."""
    kind, value = key.type.removesuffix(" | None"), grammar.value_of(text)
    is_one = {
        "int": type(value) is int,
        "float": type(value) in (int, float),
        "bool": type(value) is bool or str(value).lower() in _SWITCHES,
    }
    if not is_one.get(kind, not isinstance(value, list | dict)):
        raise UserError(f"{key.name}={text}: wanted {_KINDS.get(kind, 'one value')}")
    return value


def _text(key: Key, text: str) -> str:
    return text if key.name in _NO_PATHS else os.path.expanduser(text)  # noqa: PTH111 - not ./~x


def _texts(key: Key, text: str) -> list[str]:
    return [_element(key, part) for part in _parts(text)]


def _lists_of_texts(key: Key, text: str) -> list[list[str]]:
    return [[_element(key, part) for part in grammar.nested_parts(inner)] for inner in _parts(text)]


def _numbers(key: Key, text: str) -> list[Any]:
    values = [grammar.value_of(part) for part in _parts(text)]
    for value in values:
        if type(value) not in (int, float):
            raise ValueError(f"{value!r} is no number")
    return values


def _parts(text: str) -> list[str]:
    if text == "null":
        raise ValueError("null is no list")
    return grammar.parts(text)


def _element(key: Key, part: str) -> str:
    return _text(key, grammar.unquoted(part))


def _map(key: Key, text: str) -> dict[str, Any]:
    values = grammar.pairs(text)
    if key.type.startswith("dict[str, str]"):
        return {name: _element(key, value) for name, value in values.items()}
    return {name: grammar.value_of(value) for name, value in values.items()}


def _word_or_map(key: Key, text: str) -> Any:
    return _map(key, text) if any(sign in text for sign in ":={}[],") else text


def _text_or_list(key: Key, text: str) -> Any:
    return _texts(key, text) if grammar.is_list(text) else _text(key, text)


def _list_of_maps(key: Key, text: str) -> list[Any]:
    return [grammar.value_of(part) for part in _parts(text)]


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_SWITCHES = ("yes", "no", "on", "off", "y", "n", "1", "0")  # which omegaconf takes too
_BY_TYPE: dict[str, Read] = {
    "str": _text,
    "list[str]": _texts,
    "list[list[str]]": _lists_of_texts,
    "list[int]": _numbers,
    "list[float]": _numbers,
    "list[Any]": _list_of_maps,
}
_OF_ANY_TYPE: dict[str, Read] = {
    "weights": _word_or_map,
    "average.layers": _map,
    "averages": _map,
    "mix.candidates": _list_of_maps,
    "against": _text_or_list,
}


def _right(key: Key) -> str:
    """Write the right form of a list or a map."""
    if key.name in _EXAMPLES:
        return _EXAMPLES[key.name]
    if key.type.startswith("dict"):
        return f"{key.name}=NAME:VALUE,NAME:VALUE"
    each = "NAME" if "str" in key.type else "NUMBER"
    return f"{key.name}={each},{each}" + (
        "" if "None" in key.type else f", or {key.name}=[] for none"
    )
