"""Pass 2 over a domain: documents to the token files of its three splits."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from btm.config.choices import SPLITS
from btm.data.encode import Chunk, EncodeAll, Encoder

_CHUNK_CHARS = 250_000  # of text that are encoded at once: they and their arrays fit a cache


def pack(
    documents: Iterable[tuple[str, str]], folder: Path, encoder: Encoder, encode_all: EncodeAll
) -> dict[str, dict[str, Any]]:
    """Write {train,valid,test}.{bin,idx} into `folder` from (split, text) pairs.

    Returns {split: {documents, tokens, bytes, sha256}}, the last of the .bin file.
    """
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    hashes = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        bins = {
            split: stack.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS
        }
        idxs = {
            split: stack.enter_context((folder / f"{split}.idx").open("wb")) for split in SPLITS
        }
        for split, (ids, sizes) in encode_all(_chunks(documents)):
            data = ids.tobytes()
            bins[split].write(data)
            idxs[split].write(sizes.tobytes())
            hashes[split].update(data)
            counts[split]["documents"] += len(sizes)
            counts[split]["tokens"] += len(ids)
            counts[split]["bytes"] += int(sizes[:, 1].sum())
    return {split: {**counts[split], "sha256": hashes[split].hexdigest()} for split in SPLITS}


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
