"""Languages out of packages that hold the same works in many of them: documents, split, on disk.

Translations of one passage tell of each other, so a passage goes to one split in all languages at
once: its split is a function of its origin alone (a page, a chapter, an English message), whatever
languages are read.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btm.system.durable import make_folder, publish_folder, sweep, write_json
from suites.documents import AIM_CHARS, SPLITS, Document, cut, digest, shingles, union
from suites.domains import Domain
from suites.languages import EDITIONS, ENGLISH, LANGUAGES, Edition, tag_of
from suites.licences import STATED, licences
from suites.packages import fetch, members, version_of
from suites.reading import (
    ABOUT,
    HELD_OUT_AT_MOST,
    SHINGLES,
    SHINGLES_EVERY,
    Progress,
    Read,
    write_documents,
)

SHORTEST = 100  # characters of a document: of some languages there is little more
_LINE = 8  # characters, from which on a line counts that comes again
_LONG_LINE = 100  # from which on it counts in whatever language it came
_DECIDING = (
    "documents.py",
    "extract.py",
    "languages.py",
    "parallel.py",
    "registers.py",
    "translations.py",
)


@dataclass(frozen=True)
class Passage:
    """A text, the hash of what it translates, and the package that it is of."""

    origin: str
    split: str
    text: str
    package: str


def read_languages(
    tags: Sequence[str],
    work: Path,
    cap: int,
    progress: Progress,
    editions: Sequence[Edition] = EDITIONS,
) -> list[Read]:
    """Read languages out of the packages of `editions` into `work`, unless that is done.

    Each keeps at most `cap` bytes of training text. What stands in English is dropped from the
    others, and a long line from all languages but the first that has it.
    """
    found = [(edition, fetch(edition, work, progress)) for edition in editions]
    recipe = _recipe(tags, [path for _, path in found], cap)
    folders = {tag: work / "read" / f"{tag}-{recipe}" for tag in tags}
    if all(folder.is_dir() for folder in folders.values()):
        progress(f"{len(tags)} languages: read already")
        return [_as_read(tag, folders[tag], recipe) for tag in tags]
    sweep(make_folder(work / "read"))
    gathered, stated = _gather(found, {*tags, ENGLISH}, progress)
    labels = {version_of(path): edition.label for edition, path in found}
    lines = _Lines()
    for tag in sorted(gathered, key=lambda tag: (tag != ENGLISH, tag)):
        passages = [*lines.new(tag, gathered.pop(tag))]
        if tag in tags:
            progress(f"{tag}: {sum(len(p.text.encode()) for p in passages):,} bytes are new")
            _write(folders[tag], passages, cap, labels, stated)
    return [_as_read(tag, folders[tag], recipe) for tag in tags]


def _as_read(tag: str, folder: Path, recipe: str) -> Read:
    about = Read(Domain(tag, LANGUAGES[tag].name, "", ()), folder, recipe).about
    stated = sorted({names[0] for names in about["licences"].values()})
    domain = Domain(tag, LANGUAGES[tag].name, " AND ".join(stated), ())
    return Read(domain, folder, recipe)


def _recipe(tags: Sequence[str], packages: list[Path], cap: int) -> str:
    """Hash all that decides what is read; of English depends what is dropped elsewhere."""
    what = hashlib.sha256(f"{sorted(tags)} {[version_of(p) for p in packages]} {cap}".encode())
    for name in _DECIDING:
        what.update((Path(__file__).parent / name).read_bytes())
    return what.hexdigest()[:12]


def _gather(
    found: Sequence[tuple[Edition, Path]], tags: set[str], progress: Progress
) -> tuple[dict[str, list[Passage]], dict[str, list[str]]]:
    """Read the passages of each language, and the licences of each package."""
    gathered: dict[str, list[Passage]] = {tag: [] for tag in tags}
    stated: dict[str, list[str]] = {}
    for edition, path in found:
        package = version_of(path)
        progress(f"reading {package}")
        files = members(path, f"{edition.path}|{STATED}")
        stated[package] = licences(files)
        for name, data in files:
            place = re.search(edition.path, name)
            tag = edition.language or tag_of(place["language"]) if place else ""
            if place is None or tag not in tags:
                continue
            try:
                passages = list(edition.passages(data))
            except Exception as error:  # a file of thousands that is not what its name says
                progress(f"{package}: {name} is left out: {type(error).__name__}: {error}")
                continue
            for part, text in passages:
                origin = "/".join([edition.work, place.groupdict().get("page") or "", part])
                split = split_of(origin, edition.held_out)
                gathered[tag].append(Passage(_hash(origin), split, text, package))
    return gathered, stated


def split_of(origin: str, held_out: float) -> str:
    """Deal a passage to a split by the hash of its origin: `held_out` of all to valid, to test."""
    at = int.from_bytes(digest(origin)) / 2**64
    return "test" if at < held_out else "valid" if at < 2 * held_out else "train"


def _hash(origin: str) -> str:
    """Hash an origin to 8 characters, of which a document carries one for each passage."""
    whole = hashlib.blake2b(origin.encode(), digest_size=6).digest()
    return base64.urlsafe_b64encode(whole).decode()


class _Lines:
    """The lines that stand already: in English, in the language itself, and long ones anywhere."""

    def __init__(self) -> None:
        self._english: set[bytes] = set()
        self._long: set[bytes] = set()

    def new(self, tag: str, passages: Sequence[Passage]) -> Iterator[Passage]:
        """Yield the passages of a language without the lines that stand already, English first.

        Held-out passages come first, so that what stands twice is held out.
        """
        own: set[bytes] = set()
        letters = re.compile(LANGUAGES[tag].letters)
        for split in reversed(SPLITS):
            for passage in passages:
                if passage.split != split:
                    continue
                lines = [
                    line
                    for line in passage.text.split("\n")
                    if not line.strip() or (letters.search(line) and self._is_new(line, own))
                ]
                text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
                if text:
                    yield Passage(passage.origin, split, text, passage.package)
        if tag == ENGLISH:
            self._english = own

    def _is_new(self, line: str, own: set[bytes]) -> bool:
        line = line.strip()
        if len(line) < _LINE:
            return True
        known = digest(line)
        if known in own or known in self._english or known in self._long:
            return False
        own.add(known)
        if len(line) >= _LONG_LINE:
            self._long.add(known)
        return True


def _write(
    folder: Path,
    passages: list[Passage],
    cap: int,
    labels: Mapping[str, str],
    stated: Mapping[str, list[str]],
) -> None:
    """Publish the documents of a language, and what is known about them."""
    sizes: dict[str, int] = {}
    for passage in passages:
        sizes[passage.package] = sizes.get(passage.package, 0) + len(passage.text.encode())
    most = {"train": cap, "valid": HELD_OUT_AT_MOST, "test": HELD_OUT_AT_MOST}
    splits = {
        split: _first(_documents(split, [p for p in passages if p.split == split]), most[split])
        for split in SPLITS
    }
    packages = sorted(sizes, key=lambda name: -sizes[name])
    with publish_folder(folder, replace=True) as temporary:
        for split, documents in splits.items():
            write_documents(temporary / f"{split}.jsonl", documents)
        trained = union(shingles(doc.text, SHINGLES_EVERY) for doc in splits["train"])
        np.save(temporary / SHINGLES, trained)
        about = {
            "packages": packages,
            "licences": {name: stated[name] for name in packages},
            "source": "; ".join(dict.fromkeys(labels[name] for name in packages)),
            "package_bytes": {name: sizes[name] for name in packages},
        }
        write_json(temporary / ABOUT, about)


def _documents(split: str, passages: Sequence[Passage]) -> Iterator[Document]:
    """Join neighbouring passages to documents of about 4,000 characters; cut the longer ones."""
    texts: list[str] = []
    origins: dict[str, None] = {}
    number = 0

    def made() -> Iterator[Document]:
        whole = "\n".join(texts)
        for i, part in enumerate(cut(whole)):
            if len(part) >= SHORTEST:
                yield Document(f"{split}.{number}.{i}", part, origins=tuple(origins))

    for passage in passages:
        if texts and sum(map(len, texts)) + len(passage.text) > AIM_CHARS:
            yield from made()
            texts, origins, number = [], {}, number + 1
        texts.append(passage.text)
        origins[passage.origin] = None
    if texts:
        yield from made()


def _first(documents: Iterator[Document], most: int) -> list[Document]:
    """Take documents up to `most` bytes, in the order of the hashes of their keys."""
    kept, size = [], 0
    for document in sorted(documents, key=lambda each: digest(each.key)):
        if size < most:
            kept.append(document)
            size += document.size
    return kept
