"""Text out of the files of packages: each function takes the bytes of one member and yields its
texts.

With each text come the names or copyright lines to credit for it, where the demo suite needs them.
"""

import bz2
import gzip
import html
import html.parser
import json
import re
import zlib
from collections.abc import Iterator

from suites.packages import Extracted


def decode(data: bytes) -> str:
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def tidy(text: str) -> str:
    text = re.sub(r"\r\n?", "\n", text).translate({0: None, 0xAD: None, 0x200B: None, 0xA0: " "})
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t\f]+\n", "\n", text)).strip("\n") + "\n"


def plain(data: bytes) -> Iterator[Extracted]:
    yield tidy(decode(data)), []


def gutenberg(data: bytes) -> Iterator[Extracted]:
    """The book alone, without the distributor's header and footer."""
    text = re.split(r"\*\*\* ?(?:START|END) OF[^\n]*\n", tidy(decode(data)))[1]
    yield text[text.index("ADVENTURE I.") :], []


def jargon(data: bytes) -> Iterator[Extracted]:
    """From the introduction on, without the lists of entries at the head of the file and of each
    letter.
    """
    text = tidy(decode(data))
    text = re.sub(r"(?m)^ {3}(?=\S)", "", text[text.rindex("Welcome to the Jargon File") :])
    yield re.sub(r"(?m)(?:^[^\n:.]{1,50}\n\n){5,}", "", text), []


def rst(data: bytes) -> Iterator[Extracted]:
    yield (
        tidy(re.sub(r"(?m)^ *\.\. index::.*\n(?: +\S.*\n)*|^\.\. _.*\n", "", tidy(decode(data)))),
        [],
    )


def code(data: bytes) -> Iterator[Extracted]:
    """Source code without its leading licence comment, whose copyright lines are credited."""
    text = tidy(decode(data))
    head = re.match(r"\s*(?:/\*.*?\*/|(?:(?:#|//|;+)[^\n]*\n|\s*\n)+)", text, re.S)
    if head and re.search(r"(?i)copyright|licen[cs]e|public domain", head[0]):
        text = text[head.end() :].lstrip("\n")
    credit = re.findall(r"(?im)^[#;/* \t]*(copyright[ :].*?\d{4}.*?)[ \t*]*$", decode(data))
    if max(map(len, text.split("\n"))) <= 400:  # longer lines are generated tables
        yield text, [re.sub(r"\s+", " ", line) for line in credit]


class HtmlText(html.parser.HTMLParser):
    """Running text: white space folded outside <pre>, without navigation, contents lists and hidden
    code.
    """

    DROP_TAGS = frozenset(
        {"script", "style", "head", "nav", "header", "footer", "svg", "form", "select", "button"}
    )
    DROP_CLASSES = frozenset(
        {
            "navheader",
            "navfooter",
            "toc",
            "nosearch",
            "boring",
            "fancy_title",
            "fancy_toc",
            "buttons",
        }
    )
    BLOCKS = frozenset(
        {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "table", "ul", "ol", "dl", "hr"}
    )
    LINES = frozenset({"li", "tr", "br", "dt", "dd"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipping: tuple[str, int] | None = None
        self.pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.skipping:
            name, depth = self.skipping
            self.skipping = (name, depth + (tag == name))
        elif tag in self.DROP_TAGS or self.DROP_CLASSES.intersection(
            (dict(attrs).get("class") or "").split()
        ):
            self.skipping = (tag, 1)
        else:
            self.pre += tag == "pre"
            self.separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.skipping:
            name, depth = self.skipping
            self.skipping = (name, depth - (tag == name)) if depth > (tag == name) else None
        else:
            self.pre = max(0, self.pre - (tag == "pre"))
            self.separate(tag)

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.parts.append(data if self.pre else re.sub(r"\s+", " ", data))

    def separate(self, tag: str) -> None:
        self.parts.append(
            "\n\n"
            if tag in self.BLOCKS
            else "\n"
            if tag in self.LINES
            else " "
            if tag == "td"
            else ""
        )


def web_page(data: bytes) -> Iterator[Extracted]:
    source = decode(data)
    main = re.search(r"<main>(.*)</main>", source, re.S)
    parser = HtmlText()
    parser.feed(main[1] if main else source)
    parser.close()
    text = re.sub(r"(?m)^ (?=\S)|^This page last modified.*", "", tidy("".join(parser.parts)))
    yield tidy(re.sub(r"(?<=\S)  +(?=\S)", " ", text)), []


def sword(data: bytes) -> Iterator[Extracted]:
    """A SWORD module: zlib streams one after another, each a book or chapter in light XML."""
    while data:
        stream = zlib.decompressobj()
        text = stream.decompress(data).decode("utf-8", "replace")
        data = stream.unused_data.lstrip(b"\0")  # padding
        text = re.sub(r"<note\b.*?</note>|<title level.*?</title>|\s+", " ", text, flags=re.S)
        # Words that translators added stand in a tag of their own, at times without the blanks
        # around it.
        text = re.sub(r"(?<=</w>)(?=<transChange)|(?<=</transChange>)(?=<w\b)", " ", text)
        text = re.sub(r'<(?!lg)[^<>]* eID=[^<>]*>|<div type="x-milestone"[^<>]*>', " ", text)
        text = re.sub(r"<(?:div|lb|lg|chapter|title|p|q who)\b[^>]*>", "\n\n", text)
        text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<l\b[^>]*>", "\n", text)))
        yield tidy(re.sub(r" *\n *", "\n", re.sub(r"[ \t]+", " ", text))), []


def wordnet(data: bytes) -> Iterator[Extracted]:
    """Each synonym set as "words (part of speech): gloss"."""
    pos = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
    lines = []
    for line in decode(data).split("\n"):
        if "|" in line and not line.startswith("  "):
            fields, gloss = line.split("|", 1)
            f = fields.split()
            words = [
                re.sub(r"\((?:a|p|ip)\)$", "", w).replace("_", " ")
                for w in f[4 : 4 + 2 * int(f[3], 16) : 2]
            ]
            lines.append(f"{', '.join(words)} ({pos[f[2]]}): {gloss.strip()}")
    yield "\n".join(lines) + "\n", []


def metamath(data: bytes) -> Iterator[Extracted]:
    """Long proofs become `$= ? $.`, Metamath's own mark for a proof that is left out."""
    text = re.sub(
        r"\$=(.*?)\$\.", lambda m: m[0] if len(m[1]) < 500 else "$= ? $.", decode(data), flags=re.S
    )
    yield tidy(text), []


def wikipedia(data: bytes) -> Iterator[Extracted]:
    """The first 12,000 characters of each article of a dump, without templates, tables and
    references.
    """
    dump = bz2.decompress(data).decode("utf-8")
    for title, text in re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", dump, re.S):
        title, text = html.unescape(title), html.unescape(text)
        if re.match(r"(?i)#redirect", text) or re.match(r"\w+:", title):
            continue
        text = re.sub(
            r"<!--.*?-->|<ref[^<>]*/>|<ref.*?</ref>|<(math|gallery|timeline)\b.*?</\1>",
            "",
            text,
            flags=re.S,
        )
        for _ in range(6):
            text = re.sub(r"\{\{[^{}]*\}\}", "", text)
        text = re.sub(r"\{\|.*?\n\|\}", "", text, flags=re.S)
        for _ in range(3):  # captions hold links of their own
            text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,10}):[^\[\]]*\]\]", "", text)
            text = re.sub(r"\[\[(?!File:|Image:)(?:[^\[\]|]*\|)?([^\[\]]*)\]\]", r"\1", text)
        text = re.sub(
            r"\[https?:\S+ ?([^\]]*)\]", r"\1", re.sub(r"'{2,}|__[A-Z]+__|<[^<>]*>", "", text)
        )
        text = re.sub(
            r"\n== *(See also|References|Notes|External links|Further reading|Bibliography) *==.*",
            "",
            text,
            flags=re.S,
        )
        text = re.sub(
            r" *\([\s;,]*\)", "", re.sub(r"\(\s*[;,]\s*", "(", html.unescape(text))
        ).strip()
        yield tidy(f"{title}\n\n{text}"[:12_000].rpartition("\n")[0]), [title]


def factbook(data: bytes) -> Iterator[Extracted]:
    """A country profile as headed sections of "field: value" lines."""
    profile = json.loads(decode(data))

    def lines(node: dict, name: str) -> Iterator[str]:
        if "text" in node:
            yield f"{name}: {(node['text'] or '').replace(' ++ ', '; ')}"
        for key, child in node.items():
            if isinstance(child, dict):
                yield from lines(child, f"{name}, {key}" if name else key)

    sections = [
        f"{title.upper()}\n" + "\n".join(lines(node, "")) for title, node in profile.items()
    ]
    yield tidy("\n\n".join(sections)), []
