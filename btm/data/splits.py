"""Pass 1 over a domain: read all of it, refuse broken text, and assign each document to a split.

Splits that no file is named after are drawn by hashes (btm/data/pools.py), so they depend on the
text alone and not on the order or the names of files; but for text that is added to what is
prepared, which is dealt around it. A document that occurs twice in a domain is
kept once: in test rather than valid, and in valid rather than train, so that nothing held out was
trained on.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data.documents import BY_FILE, Source
from btm.data.formats import is_text
from btm.data.layout import POOL
from btm.data.pools import NOTHING, Digests, assign
from btm.data.reading import REFUSE, read
from btm.data.rows import Policy, RowReader, Skipped
from btm.data.slices import utf8, without_blanks
from btm.errors import UserError

DIGEST = np.dtype("<u8")  # of a document, on disk and in memory
DROPPED = len(SPLITS)  # in place of a split for a document that is dropped
PRIORITY = np.array([2, 1, 0, 3], np.uint8)  # of `SPLITS` and `DROPPED`: 0 is kept first


class SourceFile(TypedDict):
    """One file of a source in the meta.json of its domain."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitCount:
    """The size of one split before it is tokenized."""

    documents: int
    bytes: int
    duplicates_dropped: int
    found_in: dict[str, int] = field(default_factory=dict)  # of these, by <domain>/<split>


@dataclass(frozen=True)
class Survey:
    """The result of pass 1 over a domain: `split_of[d]` indexes `SPLITS` (or is `DROPPED`)."""

    source: Source
    digest_of: np.ndarray  # uint64, of every document, dropped ones as well
    size_of: np.ndarray  # uint32, bytes
    split_of: np.ndarray  # uint8
    splits: dict[str, SplitCount]
    policy: Policy = REFUSE  # by which rows were left out

    @property
    def skipped(self) -> Skipped:
        """The rows that were left out."""
        return self.policy.skipped

    def digests(self, split: str) -> np.ndarray:
        """Select the digests of the documents that a split keeps, in their order, uint64 (D,)."""
        return self.digest_of[self.split_of == SPLITS.index(split)].astype(DIGEST)

    def documents(self, column: str) -> Iterator[tuple[str, str]]:
        """Yield (split, text) of the kept documents; `UserError` if the files have changed."""
        changed = UserError(
            f"{self.source.domain}: its files changed while they were read; run it again"
        )
        seen = 0
        for _, text in self.source.documents(column, self.policy.again()):
            if seen == len(self.split_of):
                raise changed
            split = int(self.split_of[seen])
            seen += 1
            if split != DROPPED:
                yield SPLITS[split], text
        if seen < len(self.split_of):
            raise changed


def survey(
    source: Source,
    config: DataConfig,
    before: Digests = NOTHING,
    reader: RowReader | None = None,
) -> Survey:
    """Read every document of a domain once and assign each to a split.

    `before` are the digests of the documents that each split had when less text was there; `reader`
    makes documents of rows that are more than texts.

    Keeps 13 bytes a document, and about 60 for an instant. Raises `UserError` for whatever `read`
    refuses, and for a domain of which some split would be empty.
    """
    digests, sizes, keys, given = array("Q"), array("I"), array("Q"), array("B")
    by_file = source.split_by == BY_FILE
    policy = Policy.of(config, reader)
    for split, path in source.text_files():
        begin = len(digests)
        for text in read(path, config.text_column, policy):
            digest, size = _measure(text)
            digests.append(digest)
            sizes.append(size)
        mine = digests[begin:]
        given.extend([0 if split == POOL else SPLITS.index(split)] * len(mine))
        keys.extend(_keys_of_unit(mine) if by_file and is_text(path) else mine)
    if not digests:
        raise _no_document(source, policy.skipped)
    digest_D, wanted_D = np.frombuffer(digests, np.uint64), np.frombuffer(given, np.uint8)
    if source.drawn:
        wanted_D = _drawn(
            source, digest_D, np.frombuffer(keys, np.uint64), wanted_D, config, before
        )
    kept_D = _first_of_each(digest_D, PRIORITY[wanted_D])
    split_D = np.where(kept_D, wanted_D, np.uint8(DROPPED))
    size_D = np.frombuffer(sizes, np.uint32)
    counts = _counts(source.domain, split_D, wanted_D, size_D, policy.skipped.rows)
    return Survey(source, digest_D, size_D, split_D, counts, policy)


def _no_document(source: Source, skipped: Skipped) -> UserError:
    """Describe a domain without a document."""
    if skipped.rows:
        return skipped.all_of(source.domain)
    return UserError(
        f"{source.domain}: no document in {source.listing()[0][1].parent}; all is blank"
    )


def _drawn(
    source: Source,
    digest_D: np.ndarray,
    key_D: np.ndarray,
    given_D: np.ndarray,
    config: DataConfig,
    before: Digests,
) -> np.ndarray:
    """Draw the splits that are not given from train, which a pool is whole; uint8 (D,).

    What stands in a given split too is left out of account: it is kept there.
    """
    held_out_D = given_D != SPLITS.index("train")
    free_D = ~held_out_D
    if held_out_D.any():
        free_D &= ~np.isin(digest_D, digest_D[held_out_D])
    wanted_D = given_D.copy()
    if not free_D.any():
        return wanted_D  # nothing is left of train, which is refused
    wanted_D[free_D] = assign(source, digest_D[free_D], key_D[free_D], config, before)
    return wanted_D


def _keys_of_unit(digests: "array[int]") -> "array[int]":
    """Give all documents of a file the same key; that of a single one is its digest."""
    if len(digests) < 2:
        return digests
    whole = hash_bytes(np.asarray(digests, DIGEST).tobytes())
    return array("Q", [whole]) * len(digests)


def fingerprint(source: Source) -> tuple[str, list[SourceFile]]:
    """Hash all files of a source; return the sha256 of the whole, and the facts of each file."""
    files: list[SourceFile] = []
    whole = hashlib.sha256()
    for split, path in source.listing():
        digest = _file_sha256(path)
        whole.update(f"{split} {digest}\n".encode())
        files.append({"file": source.name_of(path), "bytes": path.stat().st_size, "sha256": digest})
    return whole.hexdigest(), files


def hash_bytes(data: bytes) -> int:
    """Hash bytes to the 64 bits of a `DIGEST`."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _measure(text: str) -> tuple[int, int]:
    """Hash a document's text to 64 bits, and count its bytes in UTF-8."""
    # Copies that differ only in the blanks around them count as one document.
    begin, end = without_blanks(text)
    whole, size = hashlib.blake2b(digest_size=8), 0
    for piece in utf8(text, begin, end):
        whole.update(piece)
        size += len(piece)
    if end - begin < len(text):
        size += sum(
            len(piece) for a, b in ((0, begin), (end, len(text))) for piece in utf8(text, a, b)
        )
    return int.from_bytes(whole.digest(), "little"), size


def _first_of_each(digest_D: np.ndarray, priority_D: np.ndarray) -> np.ndarray:
    """Mark one document of each digest: of the best priority, and of those the first."""
    order = np.lexsort((priority_D, digest_D))
    first = np.ones(len(order), bool)
    first[1:] = digest_D[order[1:]] != digest_D[order[:-1]]
    marked = np.zeros(len(order), bool)
    marked[order[first]] = True
    return marked


def _counts(
    domain: str, split_D: np.ndarray, wanted_D: np.ndarray, size_D: np.ndarray, skipped: int
) -> dict[str, SplitCount]:
    counts = {}
    for index, split in enumerate(SPLITS):
        kept, wanted = split_D == index, wanted_D == index
        n = int(kept.sum())
        if not n:
            raise UserError(f"{domain}: {_why_empty(split, int(wanted.sum()), skipped)}")
        counts[split] = SplitCount(n, int(size_D[kept].sum(dtype=np.int64)), int(wanted.sum()) - n)
    return counts


def _why_empty(split: str, given: int, skipped: int) -> str:
    if not given:
        left_out = f" or left out by data.on_error=skip ({skipped:,} rows)" if skipped else ""
        return f"no document in its {split} split; all is blank{left_out}"
    return (
        f"each of the {given} documents of its {split} split stands in another split "
        "too; none is left"
    )
