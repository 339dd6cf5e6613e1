"""Tasks of prompted data: what is asked about text, and four ways to ask it.

Here are the parts of a task, and the tasks of the demo's documents. Nothing is invented but the
templates. More tasks: suites/prompts_of_text.py and suites/prompts_of_words.py.
"""

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from btm.system.json_files import Json

PASSAGE = 160  # characters, so that an example has room in 128 tokens
_GLOSS = re.compile(
    r"^(?P<words>[^(\n]{3,40}) \((?P<part>noun|verb|adjective|adverb)\): (.{15,160})$"
)
KINDS = {
    "bible": "scripture",
    "speeches": "speech",
    "code_python": "program",
    "python_docs": "manual",
    "metamath": "proof",
    "spanish": "Spanish",
    "pronunciation": "sounds",
    "wordnet": "dictionary",
}
LANGUAGES = {"code_go": "Go", "code_lisp": "Lisp", "code_python": "Python", "code_tcl": "Tcl"}
Texts = Mapping[str, list[str]]  # documents by domain, of one split


@dataclass(frozen=True)
class Question:
    """A question: the fields of its templates, all its choices, and the number of the right one."""

    fields: dict[str, str]
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Source:
    """The text and rows of one split, which questions are made of."""

    texts: Texts  # of the demo
    rows: Mapping[str, list[Json]]  # of the suite readers, by what they are; none without it


@dataclass(frozen=True)
class Task:
    """A task: where its questions come from, and four ways to ask one."""

    name: str
    ask: Callable[[Source, random.Random], Iterator[Question]]
    templates: tuple[str, str, str, str]
    trained: bool = True


def with_options(
    fields: dict[str, str], right: str, wrong: Iterable[str], rng: random.Random
) -> Question:
    """Return a question whose templates may show its choices: {options} in a row, or {lines}."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    shown = {
        "options": f"{', '.join(choices[:-1])} or {choices[-1]}",
        "lines": "\n".join(f"- {each}" for each in choices),
    }
    return Question({**fields, **shown}, tuple(choices), choices.index(right))


def some(wrong: Iterable[str], rng: random.Random) -> list[str]:
    """Draw one or more of the wrong choices, so that many questions are between two."""
    found = list(wrong)
    return rng.sample(found, rng.randint(1, len(found)))


def yes_or_no(fields: dict[str, str], yes: bool, rng: random.Random) -> Question:
    """Return a question that is answered yes or no; which of the two is shown first is drawn."""
    right, wrong = ("yes", "no") if yes else ("no", "yes")
    return with_options(fields, right, [wrong], rng)


def passage(text: str, rng: random.Random) -> str:
    """Some lines or words from a random place of a document."""
    begin = rng.randrange(max(1, len(text) - PASSAGE))
    begin = text.find(" ", begin) + 1 if begin else 0
    return text[begin : begin + PASSAGE].rpartition(" ")[0].strip()


def passages(texts: Texts, rng: random.Random, each: int) -> Iterator[tuple[str, str]]:
    """Yield (domain, passage), the domains in turns."""
    count = each * min(map(len, texts.values()))
    for number in range(count):
        for domain, documents in texts.items():
            if found := passage(documents[number % len(documents)], rng):
                yield domain, found


def kind(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which kind of text a passage is (classification)."""
    names = list(KINDS)
    for domain, text in passages({name: source.texts[name] for name in names}, rng, 4):
        yield Question({"text": text}, tuple(KINDS.values()), names.index(domain))


def language(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask in which programming language a passage is written (classification)."""
    names = list(LANGUAGES)
    for domain, text in passages({name: source.texts[name] for name in names}, rng, 4):
        yield Question({"text": text}, tuple(LANGUAGES.values()), names.index(domain))


def pairs(texts: Texts, rng: random.Random, each: int) -> Iterator[tuple[dict[str, str], bool]]:
    """Yield two passages, {one, two}, and whether they are of one domain: half of them are."""
    found = list(passages(texts, rng, each))
    by_domain: dict[str, list[str]] = {name: [] for name in texts}
    for domain, text in found:
        by_domain[domain].append(text)
    for domain, text in found:
        alike = rng.random() < 0.5
        other = domain if alike else rng.choice([name for name in texts if name != domain])
        second = rng.choice(by_domain[other])
        if second != text:
            yield {"one": text[: PASSAGE // 2], "two": second[: PASSAGE // 2]}, alike


def same(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether two passages are of the same kind (inference on pairs)."""
    for fields, alike in pairs({name: source.texts[name] for name in KINDS}, rng, 3):
        yield Question(fields, ("yes", "no"), 1 - alike)


def glosses(texts: Texts) -> Iterator[tuple[str, str, str]]:
    """Yield (word, part of speech, gloss) of the dictionary."""
    for document in texts["wordnet"]:
        for line in document.splitlines():
            if found := _GLOSS.match(line):
                yield found["words"].split(",")[0], found["part"], found[3].split(";")[0]


def part(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask for the part of speech that a gloss describes, equally often each that the text has (QA).

    The demo's test text has nouns and adjectives alone.
    """
    parts = ("noun", "verb", "adjective", "adverb")
    by_part: dict[str, list[str]] = {name: [] for name in parts}
    for _, name, gloss in glosses(source.texts):
        by_part[name].append(gloss)
    count = min(max(map(len, by_part.values())), 400)
    for name, found in by_part.items():
        rng.shuffle(found)
        for gloss in (found * count)[: min(count, 4 * len(found))]:
            yield Question({"gloss": gloss}, parts, parts.index(name))


def word(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of three words a gloss describes (QA with choices)."""
    found = list(glosses(source.texts))
    words = sorted({name for name, _, _ in found})
    for name, _, gloss in rng.sample(found, min(len(found), 1500)):
        place = bisect_left(words, name)
        choices = [name, *rng.sample(words[:place] + words[place + 1 :], 2)]
        rng.shuffle(choices)
        fields = {"gloss": gloss, "words": ", ".join(choices)}
        yield Question(fields, tuple(choices), choices.index(name))


TASKS = (
    Task(
        "kind",
        kind,
        (
            "{text}\n\nWhat kind of text is this?",
            "What kind of text is the following?\n{text}\nKind:",
            "Text: {text}\nThis text is of the kind",
            "Read this: {text}\nWhich kind is it? Answer:",
        ),
    ),
    Task(
        "same",
        same,
        (
            "First: {one}\nSecond: {two}\nAre both of the same kind?",
            "{one}\n---\n{two}\n---\nThe same kind of text, yes or no?",
            "Do these two belong together?\n{one}\nand\n{two}\nAnswer:",
            "A: {one}\nB: {two}\nIs B the kind of text that A is? Answer:",
        ),
    ),
    Task(
        "part",
        part,
        (
            "{gloss}\nWhat part of speech is meant?",
            "Part of speech of a word that means: {gloss}\nAnswer:",
            'Someone looks for a word that means "{gloss}". It is of the class',
            "Meaning: {gloss}\nNoun, verb, adjective or adverb? Answer:",
        ),
    ),
    Task(
        "word",
        word,
        (
            "{gloss}\nWhich word means this: {words}?",
            "Words: {words}\nMeaning: {gloss}\nThe word is",
            "Choose from {words}.\n{gloss}:",
            "One of {words} means: {gloss}\nAnswer:",
        ),
    ),
    Task(
        "language",
        language,
        (
            "{text}\n\nWhich programming language is this?",
            "Which language is the following program in?\n{text}\nLanguage:",
            "Program: {text}\nThis program is written in",
            "Read this: {text}\nWhich language is it? Answer:",
        ),
        trained=False,
    ),
)
