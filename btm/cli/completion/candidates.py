"""Candidates for the word under the cursor: a verb, a key that the verb reads, or a value.

Only words and folders are looked at; no model, torch or hydra is loaded, so that Tab is answered
at once.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from btm.cli import help as pages
from btm.cli import verbs
from btm.cli.completion import places
from btm.cli.completion.places import Command
from btm.cli.completion.shells import SHELLS
from btm.cli.compose import full_key
from btm.cli.flags import FLAGS, FLAGS_OF
from btm.config.keys import Key, keys_of
from btm.config.schema import Config

_WIDTH = 56  # of a meaning, in characters
_GROUPS = {verb.partition(" ")[0] for verb in verbs.VERBS if " " in verb}
_KEYLESS = ("--version", "--help", "completion")  # first words that are no verbs


@dataclass(frozen=True)
class Candidate:
    """A word that may stand at the cursor, and its meaning."""

    word: str
    meaning: str = ""


def candidates(words: list[str]) -> list[Candidate]:
    """List what may replace the last of `words`, those of a command after `btm`."""
    *before, current = words or [""]
    found = _possible(before, current)
    return [each for each in found if each.word.startswith(current)]


def _possible(before: list[str], current: str) -> Iterable[Candidate]:
    if not before:
        return [*_first_words(), *map(Candidate, _KEYLESS)]
    if before[0] == "completion":
        return map(Candidate, SHELLS if len(before) == 1 else ())
    if before[0] in _GROUPS and len(before) == 1:
        return _first_words(f"{before[0]} ")
    verb, given = _parted(before)
    if verb not in verbs.VERBS:
        return []
    if current.startswith("-"):
        return _flags(verb)
    key, equals, value = current.partition("=")
    if not equals:
        return _keys(verb, given, current)
    return _values(Command(verb, given), key, value)


def _first_words(group: str = "") -> Iterator[Candidate]:
    """Yield the words of verbs that follow `group`, with their meaning from the overview."""
    seen = set()
    for verb in verbs.VERBS:
        word = verb.removeprefix(group).partition(" ")[0]
        if verb.startswith(group) and word not in seen:
            seen.add(word)
            told = re.search(rf"^  {group}{word} +(.+?) +btm ", pages.OVERVIEW, re.MULTILINE)
            yield Candidate(word, told[1] if told and group + word not in _GROUPS else "")


def _parted(words: list[str]) -> tuple[str, list[str]]:
    count = 2 if words[0] in _GROUPS else 1
    return " ".join(words[:count]), words[count:]


def _flags(verb: str) -> Iterator[Candidate]:
    for flag, meaning in (FLAGS | FLAGS_OF.get(verb, {})).items():
        yield Candidate(flag, meaning)


def _keys(verb: str, given: list[str], current: str) -> Iterator[Candidate]:
    """Yield keys of the section that `current` begins with, and the sections in it."""
    named = {full_key(word) for word in given}
    depth = current.count(".")
    sections: dict[str, None] = {}
    for key in keys_of(Config()):
        if key.name in named or not verbs.reads.reads(verb, key.name):
            continue
        name = pages.shown_name(key)
        parts = name.split(".")
        if len(parts) - 1 == depth:
            yield Candidate(f"{name}=", _shortened(pages.meaning(key)))
        elif len(parts) - 1 > depth:
            sections[".".join(parts[: depth + 1]) + "."] = None
    yield from map(Candidate, sections)
    if not depth:
        for group in pages.bundles():
            if group not in named and _reads_bundle(verb, group):
                yield Candidate(f"{group}=", "bundle of settings")


def _reads_bundle(verb: str, group: str) -> bool:
    """Tell whether a bundle of `group` can change what a verb does."""
    match group:
        case "size":
            return verb == "paper"
        case "reader":
            return verbs.reads.reads(verb, "reader.name") and verb != "remove"
        case "experiment":
            return verb in verbs.reads.SECTIONS
    return group in verbs.reads.SECTIONS.get(verb, ())


def _values(command: Command, name: str, value: str) -> Iterator[Candidate]:
    """Yield values of the key `name`, of a list those of its last element."""
    groups = pages.bundles()
    if name in groups:
        yield from (Candidate(f"{name}={each}") for each in groups[name].split(", "))
        return
    wanted = full_key(f"{name}=")
    key = next((each for each in keys_of(Config()) if each.name == wanted), None)
    if key is None or not verbs.reads.reads(command.verb, key.name):
        return
    begun, ended = "", ""
    if key.type.startswith(("list", "dict", "Any")):
        begun = value[: 1 + max(value.rfind(","), value.rfind("["), value.rfind("{"))]
        ended = ":" if key.name in places.WEIGHED and "[" not in begun else ""
    words = [*_choices(key)] if not begun or not ended else []
    words += [f"{each}{ended}" for each in places.names(command, key.name)]
    taken = {*re.split(r"[\[\],]", begun)}
    for word in dict.fromkeys(words):
        if word not in taken:
            yield Candidate(f"{name}={begun}{word}")
    yield from map(partial(_with, f"{name}={begun}"), places.paths(key.name, value[len(begun) :]))


def _choices(key: Key) -> Iterator[str]:
    if key.type.startswith("bool"):
        yield from ("true", "false")
    for choice in key.choices:
        yield "null" if choice is None else str(choice)


def _with(begun: str, word: str) -> Candidate:
    return Candidate(begun + word)


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1].rsplit(" ", 1)[0] + " …"
