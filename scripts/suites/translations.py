"""Passages out of translated files: each function takes the bytes of one file and yields (origin,
text).

`origin` names what the text is a translation of, within the file's work and page: a message of a
program, an article, a chapter. It is the same in every language.
"""

import html
import json
import re
import struct
from collections.abc import Callable, Iterator

from suites.extract import decode, tidy, web_page
from suites.packages import Extract

Passage = tuple[str, str]
Passages = Callable[[bytes], Iterator[Passage]]

_ENTRY = re.compile(
    r'^msgid ((?:".*"\s*)+)(?:msgid_plural (?:".*"\s*)+)?((?:msgstr(?:\[\d\])? (?:".*"\s*)+)+)',
    re.M,
)
_TRANSLATION = re.compile(r'msgstr(?:\[\d\])? ((?:".*"\s*)+)')
_ARTICLE = re.compile(r'<article data-number="(\d+)">(.*?)</article>', re.S)
_EMOJI = re.compile(r'<annotation cp="([^"]+)"( type="tts")?>([^<]*)</annotation>')
_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}


def page(extract: Extract) -> Passages:
    """Take a file as one passage, which `extract` reads."""

    def passages(data: bytes) -> Iterator[Passage]:
        for text, _ in extract(data):
            yield "", text

    return passages


def catalogue(data: bytes) -> Iterator[Passage]:
    """A compiled catalogue of gettext (.mo), a passage a message that is translated.

    The origin is the English message, wherever it stands. The format is that of the manual of GNU
    gettext, "The Format of GNU MO Files".
    """
    if not (order := _MAGIC.get(data[:4])):
        raise ValueError("no catalogue of gettext")
    _, count, originals, translations = struct.unpack_from(f"{order}4I", data, 4)
    for i in range(count):
        original = _string(data, order, originals + 8 * i)
        message = original.split("\0")[0].rpartition("\4")[2]
        for text in _string(data, order, translations + 8 * i).split("\0"):
            if message and text.strip() and text != message:
                yield message, text


def _string(data: bytes, order: str, at: int) -> str:
    length, start = struct.unpack_from(f"{order}2I", data, at)
    return data[start : start + length].decode("utf-8", "replace")


def catalogue_source(data: bytes) -> Iterator[Passage]:
    """A catalogue of gettext in text (.po), as `catalogue` reads the compiled one."""
    for entry in _ENTRY.finditer(decode(data)):
        message = _unquoted(entry[1])
        for quoted in _TRANSLATION.findall(entry[2]):
            if message and (text := _unquoted(quoted)).strip() and text != message:
                yield message, text


def _unquoted(lines: str) -> str:
    joined = "".join(re.findall(r'"(.*)"', lines))
    escapes = {"n": "\n", "t": "\t"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), joined)


def messages(data: bytes) -> Iterator[Passage]:
    """A JSON object of messages by their keys; those that begin with "@" are about the file."""
    for key, text in json.loads(decode(data)).items():
        if isinstance(text, str) and not key.startswith("@") and len(text) > 2:
            yield key, text


def articles(data: bytes) -> Iterator[Passage]:
    """The Declaration of Human Rights: its preamble and its articles."""
    source = decode(data)
    preamble = re.search(r"<header>(.*?)</header>", source, re.S)
    found = [("0", preamble[1])] if preamble else []
    for number, article in found + _ARTICLE.findall(source):
        yield number, next(web_page(article.encode()))[0]


def chapters(data: bytes) -> Iterator[Passage]:
    """The Quran, a chapter a passage: translated where the file holds a translation."""
    for chapter in json.loads(decode(data)):
        verses = [verse.get("translation", verse["text"]) for verse in chapter["verses"]]
        yield str(chapter["id"]), tidy("\n".join(verses))


def verses(data: bytes) -> Iterator[Passage]:
    """A chapter of the Bible: a JSON list of its verses."""
    yield "", tidy("\n".join(str(verse) for verse in json.loads(decode(data))))


def emoji(data: bytes) -> Iterator[Passage]:
    """Names and keywords of characters, as CLDR annotates them."""
    keywords: dict[str, str] = {}
    for character, is_name, text in _EMOJI.findall(decode(data)):
        text = html.unescape(text)
        if not is_name:
            keywords[character] = text.replace(" | ", ", ")
        elif text != "↑↑↑":  # CLDR's mark of what is inherited from another language
            yield character, f"{text}: {keywords.get(character, '')}"
