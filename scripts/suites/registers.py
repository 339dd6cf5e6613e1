"""Text out of what only the 16 and 64 domains hold: mails, manuals, ontologies, tagged text, source
code.
"""

import email
import email.policy
import io
import json
import re
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator

from suites.extract import decode, tidy, web_page
from suites.packages import Extracted

_LICENCE_COMMENT = re.compile(
    r'\s*(?:/\*.*?\*/|\(\*.*?\*\)|"""[^"]*"""|<!--.*?-->|(?:(?:#|//|--|;+|%|!|\\)[^\n]*\n|\s*\n)+)',
    re.S,
)
_LONGEST_LINE = 1_000  # characters; longer ones are generated
_JAVA = (
    "java.base/java",
    "java.desktop/javax",
    "java.net",
    "java.sql",
    "java.xml",
    "jdk.compiler",
    "java.logging",
)
_GAMES_A_TEXT = 5
_MAN_PARAGRAPH = re.compile(
    r"[.'](PP|P|LP|TP|IP|HP|Pp|RS|RE|sp|br|It|nf|fi|EX|EE|Bl|El|Bd|Ed)\b\s*(.*)"
)
_MAN_HEADING = re.compile(r"[.'](SH|SS|Sh|Ss)\s*(.*)")
_MAN_CHARACTERS = {
    "-": "-", "(aq": "'", "(bu": "*", "(em": "--", "(co": "(c)", "e": "\\", "&": "", "|": "", "~": " ",
    " ": " ", "(dq": '"', "(lq": '"', "(rq": '"', "(oq": "'", "(cq": "'", "(hy": "-", "(en": "-",
}  # fmt: skip


def program(data: bytes) -> Iterator[Extracted]:
    """Source code without its leading licence comment; nothing if it is generated."""
    text = tidy(decode(data))
    head = _LICENCE_COMMENT.match(text)
    if head and len(head[0]) < 8_000 and re.search(r"(?i)copyright|licen[cs]e|spdx", head[0]):
        text = text[head.end() :].lstrip("\n")
    if max(map(len, text.split("\n"))) <= _LONGEST_LINE:
        yield text, []


def chess_games(data: bytes) -> Iterator[Extracted]:
    """Games in PGN, a few neighbours to a text, without the tags whose value is not known."""
    known = re.sub(r'(?m)^\[\w+ "[?.]*"\]\n', "", tidy(decode(data))).rstrip("\n")
    games = re.split(r"\n\n(?=\[)", known)
    for i in range(0, len(games), _GAMES_A_TEXT):
        yield "\n\n".join(games[i : i + _GAMES_A_TEXT]) + "\n", []


def java(data: bytes) -> Iterator[Extracted]:
    """The source code of the class library, out of the archive it comes in."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".java") and name.startswith(_JAVA):
                yield from program(archive.read(name))


def manual_page(data: bytes) -> Iterator[Extracted]:
    """A manual page in troff (man or mdoc), as running text with its headings."""
    lines = []
    for line in decode(data).split("\n"):
        if re.match(r"""[.'](\\"|\\}|de|ie|el|if|nr|ds|ad|nh|hy|TH |Dd|so |tr|rm)""", line):
            continue
        if found := _MAN_HEADING.match(line):
            lines += ["", found[2].strip('"'), ""]
        elif found := _MAN_PARAGRAPH.match(line):
            lines += ["", found[2].strip('"')]
        elif not (line := re.sub(r"^[.']([A-Z][A-Za-z]{0,2})\s+", "", line)).startswith("."):
            lines.append(line)
    text = re.sub(r"\\f(?:\(..|\[[^\]]*\]|.)|\\s[-+]?\d", "", "\n".join(lines))
    known = "|".join(map(re.escape, _MAN_CHARACTERS))
    text = re.sub(rf"\\({known})", lambda found: _MAN_CHARACTERS[found[1]], text)
    yield tidy(re.sub(r"\\\*?\(..|\\\[[^\]]*\]", "", text)), []


def mail(data: bytes) -> Iterator[Extracted]:
    """Subject and body of a mail: no other header, no signature, no footer of a list."""
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    parts = []
    for part in message.walk():
        if part.get_content_type() in ("text/plain", "text/html") and not part.is_multipart():
            content = part.get_payload(decode=True)
            if isinstance(content, bytes):
                html = part.get_content_type() == "text/html"
                parts.append(next(web_page(content))[0] if html else tidy(decode(content)))
    body = re.split(r"\n-- ?\n|\n_{20,}\n|\n-{30,}\nThis .{0,10}(?:sf|list)", "\n".join(parts))[0]
    subject = re.sub(r"\s+", " ", str(message.get("Subject", "")))
    yield tidy(f"Subject: {subject}\n\n{body}"), []


def tagged(data: bytes) -> Iterator[Extracted]:
    """The Brown corpus: "word/tag" tokens, as running text."""
    lines = []
    for line in decode(data).split("\n"):
        text = " ".join(token.rsplit("/", 1)[0] for token in line.split())
        text = text.replace("``", '"').replace("''", '"')
        text = re.sub(r"(?<=\() | (?=[,.;:?!)'])", "", text)
        if text:
            lines.append(text)
    yield "\n".join(lines) + "\n", []


def without_front_matter(data: bytes) -> Iterator[Extracted]:
    """A text whose head, between lines of "---", is about it; "{{" and "}}" mark what may vary in
    it.
    """
    text = tidy(decode(data))
    if text.startswith("---") and "\n---\n" in text:
        text = text.split("\n---\n", 1)[1]
    yield tidy(re.sub(r"\{\{|\}\}", "", text)), []


def ontology(data: bytes) -> Iterator[Extracted]:
    """An OBO file, a paragraph a term: name, definition, synonyms and what it is a kind of."""
    terms = []
    for stanza in decode(data).split("\n\n"):
        if (
            stanza.startswith("[Term]")
            and "is_obsolete: true" not in stanza
            and (term := _term(stanza))
        ):
            terms.append(term)
    yield "\n\n".join(terms) + "\n", []


def _term(stanza: str) -> str:
    def values(key: str) -> list[str]:
        return re.findall(rf"^{key}: (.*)$", stanza, re.M)

    def quoted(value: str) -> str:
        found = re.search(r'"((?:[^"\\]|\\.)*)"', value)
        return found[1].replace('\\"', '"').replace("\\n", " ") if found else ""

    names, definitions = values("name"), [quoted(value) for value in values("def")]
    if not names or not definitions:
        return ""
    text = " ".join([f"{names[0]}:", *definitions, *values("comment")[:1]])
    synonyms = [
        s
        for s in map(quoted, values("synonym"))
        if re.fullmatch(r"(?=.*[a-z]{3})[\w' ,-]{3,60}", s)
    ]
    if synonyms:
        text += f" Also called {'; '.join(synonyms[:6])}."
    kinds = [value.split("! ")[1] for value in values("is_a") if "! " in value]
    return text + (f" It is a kind of {', '.join(kinds)}." if kinds else "")


def strings_of_json(data: bytes) -> Iterator[Extracted]:
    """A JSON list of sentences, one a line."""
    yield tidy("\n".join(item for item in json.loads(decode(data)) if isinstance(item, str))), []


def strings_of_r(data: bytes) -> Iterator[Extracted]:
    """An R database of objects (.rdb): the long character vectors among its zlib blocks."""
    while (start := data.find(b"\x78\x9c")) >= 0:
        block = zlib.decompressobj()
        try:
            raw = block.decompress(data[start:])
        except zlib.error:
            data = data[start + 2 :]
            continue
        data = block.unused_data
        lines = []
        for found in re.finditer(rb"\x00[\x00\x04][\x00\x80]\x09(....)", raw, re.S):
            length = struct.unpack(">i", found[1])[0]
            if 0 <= length < 4_000:
                lines.append(raw[found.end() : found.end() + length].decode("utf-8", "replace"))
        if len(lines) > 1_000:
            yield tidy("\n".join(lines)), []


def fortunes(data: bytes) -> Iterator[Extracted]:
    """Sayings that lines of "%" separate, as paragraphs."""
    yield tidy(re.sub(r"\n%\n", "\n\n", decode(data))), []


def tex(data: bytes) -> Iterator[Extracted]:
    """TeX without the lines that are comments."""
    yield tidy(re.sub(r"(?m)^%.*\n", "", tidy(decode(data)))), []


def descriptions(data: bytes) -> Iterator[Extracted]:
    """What packages are, out of the archive's index: one text for all that share the head of their
    names.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for stanza in decode(data).split("\n\n"):
        if found := re.match(r"Package: (\S+)\n.*?Description-en: (.*)", stanza, re.S):
            text = re.sub(r"\n \.?", "\n", found[2])
            families[re.split(r"[-0-9]", found[1])[0]].append(f"{found[1]}: {text}\n")
    for family in sorted(families):
        yield tidy("\n".join(families[family])), []
