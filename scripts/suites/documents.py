"""Texts to documents, and documents to splits that share neither a document nor much of their
wording.

A document is 2,000 to 6,000 characters, cut at the end of a paragraph; short files stay short.
Documents that belong together (those of a short file, or a block of neighbours in a long one) go to
one split as a whole.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

SPLITS = ("train", "valid", "test")
MIN_CHARS, LOW_CHARS, AIM_CHARS, MAX_CHARS = 300, 2_000, 4_000, 6_000
PARAGRAPH_CHARS = 100  # shorter ones may come again: headings, "See also"
SHINGLE_WORDS, MAX_SHARED = 13, 0.25
_BASE = 0x9E3779B97F4A7C15  # odd, so that every word of a shingle counts

Groups = dict[str, list["Document"]]  # by what must not be split


@dataclass
class Document:
    """A text, the key that names where it comes from, and whom to credit for it.

    `origins` are hashes of the passages that it translates, the same in every language.
    """

    key: str
    text: str
    credit: list[str] = field(default_factory=list, repr=False)
    origins: tuple[str, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return len(self.text.encode())


def digest(text: str) -> bytes:
    """Return a hash of 8 bytes, the same on every machine."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def mark(text: str) -> bytes:
    """Return what two documents share that differ in case, blanks and punctuation alone."""
    return digest(re.sub(r"\W+", " ", text).strip().lower())


def cut(text: str) -> Iterator[str]:
    """Documents of at most MAX_CHARS, cut at a blank line, else at the end of a line, sentence or
    word.
    """
    text = text.strip("\n")
    while len(text) > MAX_CHARS:
        at = text.find("\n\n", AIM_CHARS, MAX_CHARS)
        for end in ("\n\n", "\n", ". ", " "):
            at = text.rfind(end, LOW_CHARS, MAX_CHARS - 1) + (end == ". ") if at <= 0 else at
        at = at if at > 0 else MAX_CHARS
        yield text[:at].rstrip() + "\n"
        text = text[at:].strip("\n").removeprefix(" " if text[at] == " " else "")
    yield text.rstrip() + "\n"


def without_repeats(text: str, seen: set[bytes]) -> str:
    """Return the text without the paragraphs that `seen` holds; those that stay are added to it."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        if len(paragraph) >= PARAGRAPH_CHARS:
            if (known := mark(paragraph)) in seen:
                continue
            seen.add(known)
        kept.append(paragraph)
    return "\n\n".join(kept)


def add(
    groups: Groups,
    key: str,
    text: str,
    seen: set[bytes],
    *,
    block: int,
    whole: int,
    credit: list[str],
) -> None:
    """Cut a text and add what is new of it: up to `whole` documents as one group, else blocks of
    `block`.
    """
    documents = list(cut(text))
    for i, part in enumerate(documents):
        known = mark(part)
        if len(part) >= MIN_CHARS and known not in seen:
            seen.add(known)
            name = f"{key}.{0 if len(documents) <= whole else i // block}"
            groups.setdefault(name, []).append(Document(f"{name}.{i}", part, credit))


def fill(
    groups: Groups, budget: Mapping[str, int], held_out_group: float = float("inf")
) -> dict[str, list[Document]]:
    """Fill test, valid and train up to `budget` bytes with whole groups, in the order of their
    hashes.

    A group of more than `held_out_group` bytes is for training alone: it would be most of a test.
    """
    left = dict(budget)
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for key in sorted(groups, key=digest):
        size = sum(document.size for document in groups[key])
        for split in reversed(SPLITS):
            if left[split] > 0 and (split == "train" or size <= held_out_group):
                splits[split] += groups[key]
                left[split] -= size
                break
    for documents in splits.values():
        documents.sort(key=lambda document: digest(document.key))
    return splits


def shingles(text: str, every: int = 1) -> np.ndarray:
    """Return the distinct hashes of all runs of 13 words, uint64, sorted; of these one in `every`,
    a power of 2.

    Which ones are kept depends on the hash alone, so the same runs are kept of every text.
    """
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    n = len(words) - SHINGLE_WORDS + 1
    if n <= 0:
        return np.empty(0, np.uint64)
    word_W = np.fromiter(map(_hash_of_word, words), np.uint64, len(words))
    run_R = np.zeros(n, np.uint64)
    for i in range(SHINGLE_WORDS):  # a polynomial modulo 2^64
        run_R = run_R * np.uint64(_BASE) + word_W[i : i + n]
    run_R ^= run_R >> np.uint64(29)
    return np.unique(run_R[run_R & np.uint64(every - 1) == 0])


@functools.lru_cache(1 << 20)
def _hash_of_word(word: str) -> int:
    return int.from_bytes(digest(word))


def union(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return the distinct values of all parts, sorted."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))


def shared(shingle_S: np.ndarray, known_K: np.ndarray) -> float:
    """Return which part of a text's shingles stands in `known_K`, which is sorted; 0 if it has
    none.
    """
    if not len(shingle_S) or not len(known_K):
        return 0.0
    at_S = np.minimum(np.searchsorted(known_K, shingle_S), len(known_K) - 1)
    return float(np.mean(known_K[at_S] == shingle_S))
