"""Sentences of reviews with their sentiment: the fixtures of npm's package `sentiment`.

They are the "Sentiment Labelled Sentences" of Kotzias et al. (KDD 2015), 1,000 each of three sites,
half of them positive.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from suites.documents import SPLITS, digest, mark
from suites.packages import NPM, Package

SENTIMENT = Package(NPM, "sentiment", "5.0.2", r"test/fixtures/(amazon|imdb|yelp)\.json$")
CHOICES = ("negative", "positive")
_HELD_OUT = 0.15


def sentiment(files: Iterable[tuple[str, bytes]]) -> dict[str, list[dict[str, Any]]]:
    """Return rows by split, as questions with two choices; a sentence stands once.

    A sentence's split is that of its hash, whatever package or site it comes in.
    """
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    seen: set[bytes] = set()
    for path, data in files:
        site = path.rpartition("/")[2].removesuffix(".json")
        for number, each in enumerate(json.loads(data)):
            text = re.sub(r"\s+", " ", str(each.get("text") or "")).strip()
            if not text or each.get("class") not in (0, 1) or (known := mark(text)) in seen:
                continue
            seen.add(known)
            at = int.from_bytes(digest(text)) / 2**64
            split = "test" if at < _HELD_OUT else "valid" if at < 2 * _HELD_OUT else "train"
            rows[split].append(
                {
                    "id": f"{site}-{number}",
                    "domain": site,
                    "support": text,
                    "question": "The review is",
                    "choices": list(CHOICES),
                    "answer": each["class"],
                }
            )
    return rows
