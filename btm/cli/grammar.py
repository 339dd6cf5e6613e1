"""The little grammar of lists and maps on a command line.

``[red, blue]`` or ``red,blue``; ``{red: 0.5, blue: 0.5}``, ``red:0.5,blue:0.5`` or
``red=0.5,blue=0.5``. An element may be quoted, 'a,b' or "a,b", and is then text whatever it holds;
before a quote or a backslash in it stands a backslash. Brackets group; those that do not match are
characters like others, as in the path x[1. What is wrong is a `ValueError` that says what.
"""

import re
from collections.abc import Iterator
from typing import Any

_CLOSES = {"[": "]", "{": "}"}
_QUOTED = re.compile(r"""\s*(?:'((?:\\['\\]|[^'])*)'|"((?:\\["\\]|[^"])*)")\s*(?=$|[,\]}:=])""")
_WHOLE = re.compile(r"[+-]?\d+(_\d+)*")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


def parts(text: str) -> list[str]:
    """Split a list at its commas; `text` may stand in brackets."""
    inner = _inside(text, "[")
    if inner is None:
        inner = _plain(text)
    return _elements(inner)


def nested_parts(text: str) -> list[str]:
    """Split the inner list of a list of lists, which must have brackets of its own."""
    inner = _inside(text, "[")
    if inner is None:
        raise ValueError(f"{text} is no list in brackets")
    return _elements(inner)


def pairs(text: str) -> dict[str, str]:
    """Split a map into {name: value}; `text` may stand in braces, `=` for each colon."""
    inner = _inside(text, "{")
    if inner is None:
        inner = _plain(text)
    found: dict[str, str] = {}
    for element in _elements(inner):
        name, *value = (each.strip() for each in _split(element, ":=", most=1))
        if not name or not value:
            raise ValueError(f"{element} is no name with a value")
        name = unquoted(name)
        if name in found:
            raise ValueError(f"{name} stands there twice")
        found[name] = value[0]
    return found


def unquoted(element: str) -> str:
    """Take the quotes from an element that has them."""
    found = _QUOTED.fullmatch(element)
    if found is None:
        return element
    inner = found[1] if found[1] is not None else found[2]
    return re.sub(r"""\\(['"\\])""", r"\1", inner)


def value_of(text: str) -> Any:
    """Read a value of no declared type: a list, a map, true, false, null, a number, or else text.

    A list or a map needs its brackets here.
    """
    text = text.strip()
    if _QUOTED.fullmatch(text):
        return unquoted(text)
    if (inner := _inside(text, "[")) is not None:
        return [value_of(element) for element in _elements(inner)]
    if _inside(text, "{") is not None:
        return {name: value_of(value) for name, value in pairs(text).items()}
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def is_list(text: str) -> bool:
    """Tell whether `text` is a list in brackets."""
    return _inside(text, "[") is not None


def _plain(text: str) -> str:
    """Pass on a list or a map without brackets of its own, if it is one."""
    stripped = text.strip()
    if not stripped:
        raise ValueError("nothing is given")
    if stripped[0] in _CLOSES and not _matches(stripped):
        raise ValueError("a bracket does not match")
    return stripped


def _inside(text: str, bracket: str) -> str | None:
    """Take the brackets from a text that stands in them; None if the first closes before its
    end.
    """
    text = text.strip()
    if not (text.startswith(bracket) and text.endswith(_CLOSES[bracket])):
        return None
    depth = 0
    for place, sign in _signs(text):
        depth += _deeper(sign)
        if depth == 0:
            return text[1:-1] if place == len(text) - 1 else None
    return None


def _elements(text: str) -> list[str]:
    if not text.strip():
        return []
    found = [element.strip() for element in _split(text, ",")]
    if "" in found:
        raise ValueError("a comma stands beside nothing")
    return found


def _split(text: str, at: str, most: int = -1) -> list[str]:
    """Split at the characters `at` outside brackets and quotes, at most at the first `most`."""
    found: list[str] = []
    begun, depth, grouped = 0, 0, _matches(text)
    for place, sign in _signs(text):
        depth += _deeper(sign) if grouped else 0
        if sign in at and depth == 0 and len(found) != most:
            found.append(text[begun:place])
            begun = place + 1
    return [*found, text[begun:]]


def _matches(text: str) -> bool:
    """Tell whether every bracket has its other half."""
    open_: list[str] = []
    for _, sign in _signs(text):
        if sign in _CLOSES:
            open_.append(_CLOSES[sign])
        elif sign in _CLOSES.values() and (not open_ or open_.pop() != sign):
            return False
    return not open_


def _deeper(sign: str) -> int:
    return (sign in _CLOSES) - (sign in _CLOSES.values())


def _signs(text: str) -> Iterator[tuple[int, str]]:
    """Yield (place, character) of each of `[]{},:=` outside quoted elements."""
    place, begins = 0, True
    while place < len(text):
        quoted = _QUOTED.match(text, place) if begins else None
        if quoted is not None:
            place, begins = quoted.end(), False
            continue
        sign = text[place]
        if sign in "[]{},:=":
            yield place, sign
        begins = sign in "[{,:=" or (begins and sign.isspace())
        place += 1
