"""The writing of discovered domains: any text to a folder of balanced clusters, streamed."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from btm.config.choices import SPLITS
from btm.config.data import DataConfig, DiscoverConfig
from btm.data.discover.assign import balanced_assignment
from btm.data.discover.cluster import balanced_kmeans
from btm.data.discover.router import CHARS, HOME, Router, name_of
from btm.data.domains import look
from btm.data.duplicates import settle
from btm.data.splits import survey
from btm.errors import UserError
from btm.system import durable

BLOCK = 8_192  # documents that are balanced together when a corpus is streamed …
_BLOCK_CHARS = 1 << 27  # … or fewer, of so many characters
_LEVEL = 1  # of zstd, the fastest: the files are read once, by prepare
_quoted = json.JSONEncoder(ensure_ascii=False).encode

Say = Callable[[str], None]


def discover(
    data: DataConfig, config: DiscoverConfig, target: Path, say: Say
) -> list[dict[str, object]]:
    """Cluster the documents of `data.root` into `target`; return a table row for each cluster.

    The features and centres are fitted on a sample of the train split; then every split is streamed
    in blocks, each balanced by itself, so that the clusters of any corpus hold the same number of
    documents within a few.
    """
    if data.root is None:
        raise UserError("data.root is missing: discovery needs data=folder data.root=DIR")
    if data.format != "text":
        raise UserError(f"data.format={data.format}: domains are discovered in text; leave it out")
    found = look(Path(data.root), data)
    for line in found.lines():
        say(line)
    read = [survey(source, data) for source in found.sources]
    for each in read:
        for line in each.skipped.lines(each.source.domain):
            say(line)
    surveys = settle(read)
    total = sum(each.splits["train"].documents for each in surveys)
    if config.k > total // 2:
        raise UserError(f"discover.k={config.k}: {total:,} documents for training are too few")

    def documents() -> Iterator[tuple[str, str]]:
        for each in surveys:
            yield from each.documents(data.text_column)

    say(f"reading a sample of {min(total, config.sample):,} of {total:,} documents")
    heads = (text[:CHARS] for split, text in documents() if split == "train")
    sample = _sample(heads, total, config)
    router, features = Router.fit(sample, config.features, config.seed)
    say(f"{len(router.terms):,} terms, {features.shape[1]} features; {config.k} balanced clusters")
    router.centres, _ = balanced_kmeans(features, config.k, config.seed)
    router.temperature = config.temperature
    with durable.publish_folder(target) as folder:
        counts = write(router, documents(), folder, say)
        (folder / HOME).mkdir()
        router.save(folder / HOME)
    return [
        {
            "domain": name_of(k),
            **{split: int(counts[k, i]) for i, split in enumerate(SPLITS)},
            "marked by": router.describe(k),
        }
        for k in range(config.k)
    ]


def _sample(texts: Iterator[str], total: int, config: DiscoverConfig) -> list[str]:
    """Draw `config.sample` of `total` texts evenly by seed; all of them if they are fewer."""
    if total <= config.sample:
        return list(texts)
    kept = np.zeros(total, bool)
    kept[np.random.default_rng(config.seed).choice(total, config.sample, replace=False)] = True
    return [text for text, keep in zip(texts, kept, strict=True) if keep]


def write(
    router: Router, documents: Iterator[tuple[str, str]], folder: Path, say: Say
) -> np.ndarray:
    """Stream documents into their clusters' files; return the counts, (clusters, splits)."""
    import zstandard

    K = len(router.centres)
    counts = np.zeros((K, len(SPLITS)), np.int64)
    blocks: dict[str, list[str]] = {split: [] for split in SPLITS}
    chars = dict.fromkeys(SPLITS, 0)
    with ExitStack() as stack:
        files: dict[tuple[int, str], Any] = {}
        for k in range(K):
            (folder / name_of(k)).mkdir()
            for split in SPLITS:
                file = folder / name_of(k) / f"{split}.jsonl.zst"
                handle = stack.enter_context(file.open("wb"))
                packer = zstandard.ZstdCompressor(_LEVEL).stream_writer(handle)
                files[k, split] = stack.enter_context(packer)

        def flush(split: str) -> None:
            texts = blocks[split]
            if not texts:
                return
            so_far_K = counts[:, SPLITS.index(split)]
            lines: list[list[bytes]] = [[] for _ in range(K)]
            for text, k in zip(texts, _balanced(router, texts, so_far_K), strict=True):
                lines[k].append(f'{{"text": {_quoted(text)}}}\n'.encode())
            for k in range(K):
                files[k, split].write(b"".join(lines[k]))
                so_far_K[k] += len(lines[k])
            blocks[split], chars[split] = [], 0
            say(f"assigned {counts.sum():,} documents")

        for split, text in documents:
            blocks[split].append(text)
            chars[split] += len(text)
            if len(blocks[split]) == BLOCK or chars[split] >= _BLOCK_CHARS:
                flush(split)
        for split in SPLITS:
            flush(split)
    return counts


def _balanced(router: Router, texts: list[str], so_far_K: np.ndarray) -> list[int]:
    """Assign a cluster to each text; the smallest clusters so far get the uneven rest."""
    order = np.argsort(so_far_K, kind="stable")
    scores = router.similarity(router.features(texts))[:, order]
    return [int(order[k]) for k in balanced_assignment(scores)]
