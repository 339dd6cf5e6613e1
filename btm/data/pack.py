"""Pass 2 over a domain: documents to the token files of its three splits."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from btm.config.choices import SPLITS
from btm.data.encode import Chunk, EncodeAll, Encoder
from btm.data.shards import SplitFacts

_CHUNK_CHARS = 250_000  # of text encoded at once: they and their arrays fit a cache


def pack(
    documents: Iterable[tuple[str, str]], folder: Path, encoder: Encoder, encode_all: EncodeAll
) -> dict[str, SplitFacts]:
    """Write {train,valid,test}.{bin,idx} into `folder` from (split, text) pairs.

    Returns the facts of each split for meta.json: documents, tokens, bytes, and the sha256 of the
    .bin file.
    """
    facts: dict[str, SplitFacts] = {
        split: {"documents": 0, "tokens": 0, "bytes": 0, "sha256": ""} for split in SPLITS
    }
    hashes = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        bins, idxs = (
            {s: stack.enter_context((folder / f"{s}.{ending}").open("wb")) for s in SPLITS}
            for ending in ("bin", "idx")
        )
        for split, (ids, sizes) in encode_all(_chunks(documents)):
            bins[split].write(ids.data)
            idxs[split].write(sizes.tobytes())
            hashes[split].update(ids.data)
            facts[split]["documents"] += len(sizes)
            facts[split]["tokens"] += len(ids)
            facts[split]["bytes"] += int(sizes[:, 1].sum())
    for split in SPLITS:
        facts[split]["sha256"] = hashes[split].hexdigest()
    return facts


def _chunks(documents: Iterable[tuple[str, str]]) -> Iterator[Chunk]:
    """Gather the documents of each split, in their order, into chunks of about `_CHUNK_CHARS`."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    chars = dict.fromkeys(SPLITS, 0)
    for split, text in documents:
        texts[split].append(text)
        chars[split] += len(text)
        if chars[split] >= _CHUNK_CHARS:
            yield split, texts[split]
            texts[split], chars[split] = [], 0
    yield from ((split, texts[split]) for split in SPLITS if texts[split])
