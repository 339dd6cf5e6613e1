"""A look at a suite as it lies on disk: is a held-out document, or much of its wording, in the
training text?
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from btm.data.documents import read
from btm.data.domains import find
from btm.data.rows import Policy
from suites.documents import MAX_SHARED, mark, shared, shingles, union


def audit(root: Path) -> list[dict[str, Any]]:
    """Return a row a domain; nothing that the builder noted is believed, and no shingle is left
    out.

    `twice` counts documents that stand in the suite more than once, `in_two_splits` those of them
    that are both trained on and held out (or in valid and in test), of whichever domains; `near`
    counts held-out documents that share more than a quarter of their shingles with the training
    text of any domain, and `mean_shared` is their mean share. `translated` counts the documents with
    a passage whose translation stands in another split, in whatever language: by the origins that
    documents carry. Takes about 10 bytes of memory a byte of text.
    """
    listed = json.loads((root / "suite.json").read_bytes())["domains"]
    count: Counter[bytes] = Counter()
    where: dict[bytes, set[str]] = {}
    for _, split, text in _texts(root):
        known = mark(text)
        count[known] += 1
        where.setdefault(known, set()).add(split)
    trained = union(shingles(text) for _, split, text in _texts(root) if split == "train")
    rows = {
        name: {"domain": name, "novel": about["novel"], "documents": 0, "held_out": 0, "twice": 0}
        | {"in_two_splits": 0, "near": 0, "mean_shared": 0.0, "translated": 0}
        for name, about in listed.items()
    }
    shares: dict[str, list[float]] = {name: [] for name in rows}
    for domain, split, text in _texts(root):
        row, known = rows[domain], mark(text)
        row["documents"] += 1
        row["twice"] += count[known] > 1
        row["in_two_splits"] += len(where[known]) > 1
        if split != "train":
            row["held_out"] += 1
            shares[domain].append(shared(shingles(text), trained))
    apart = _translated(root)
    for name, row in rows.items():
        row["near"] = sum(share > MAX_SHARED for share in shares[name])
        row["mean_shared"] = float(np.mean(shares[name] or [0.0]))
        row["translated"] = apart[name]
    return list(rows.values())


def _translated(root: Path) -> Counter[str]:
    """Count by domain the documents that share an origin with a document of another split."""
    splits: dict[str, str] = {}
    apart: set[str] = set()
    for _, split, origins in _origins(root):
        apart.update(each for each in origins if splits.setdefault(each, split) != split)
    return Counter(name for name, _, origins in _origins(root) if not apart.isdisjoint(origins))


def _origins(root: Path) -> Iterator[tuple[str, str, list[str]]]:
    for source in find(root):
        for split, path in source.listing():
            for text in read(path, "origins", Policy("skip")):
                yield source.domain, split, text.split()


def _texts(root: Path) -> Iterator[tuple[str, str, str]]:
    for source in find(root):
        for split, path in source.listing():
            for text in read(path, "text"):
                yield source.domain, split, text
