"""The control of random domains: documents of all domains dealt at random to as many parts.

data/<suite>-random_split/
  random_split.json      what it was dealt from random-0/ …            the training domains; each
  holds as many documents of every domain as the others, within 1 <domain>/              the suite's
  own domains, to evaluate on: the same files, by hard link where possible

A part's train split lies domain by domain, and its meta.json tells the runs, so that training takes
turns between them as the seed's mix does (`Shard.pieces`); valid and test lie in random order, for
their heads are read.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from btm.config.choices import SPLITS
from btm.data.shards import META, TOKENIZER, Shard, Suite, require_text
from btm.data.splits import DIGEST
from btm.errors import UserError
from btm.system import durable
from btm.system.json_files import Json

FACTS = "random_split.json"
_SCHEMA = 1
_SEED = 0  # the split is the suite's, whatever trainer.seed is
_CHUNK = 1 << 20  # tokens that are gathered at once

Say = Callable[[str], None]


def deal(suite: Suite, target: Path, names: dict[str, str], say: Say = lambda line: None) -> Suite:
    """Bring the suite of random parts at `target` up to date and return it; `names` is {domain:
    part}.

    Keeps about 30 bytes a document in memory. Raises `UserError` if a split has fewer documents
    than parts.
    """
    facts = {
        "schema": _SCHEMA,
        "seed": _SEED,
        "parts": names,
        "tokenizer_sha256": suite.tokenizer_sha256,
        "domains": {domain: suite.metas[domain]["splits"] for domain in suite.domains()},
    }
    durable.sweep(target.parent)
    if _read(target / FACTS) == facts and _as_hashed(suite, target, names):
        return Suite.open(target)
    if target.exists() and not (target / FACTS).exists():
        raise UserError(
            f"baseline=random_split deals the text of {suite.path} into {target}, where a suite of "
            "its own stands: move that (data.name=NAME of the forest, or another data.out=)"
        )
    sources = {split: [suite.shard(domain, split) for domain in sorted(names)] for split in SPLITS}
    require_text(sources["train"], "baseline=random_split")
    _require_documents(sources, len(names))
    durable.require_space(target, sum(s.n_tokens * s.dtype.itemsize for s in sources["train"]) * 2)
    say(f"dealing the documents of {len(names)} domains at random")
    with durable.publish_folder(target, replace=True) as folder:
        shutil.copytree(suite.tokenizer, folder / TOKENIZER)
        for domain in suite.domains():
            _link(suite, domain, folder / domain)
        _write_parts(suite, sources, list(names.values()), folder)
        durable.write_json(folder / FACTS, facts)
    return Suite.open(target)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def _as_hashed(suite: Suite, target: Path, names: dict[str, str]) -> bool:
    """Tell whether the parts have digests if the suite's domains do, which `btm prepare` adds."""
    theirs = all((suite.path / domain / "train.docs").is_file() for domain in names)
    return not theirs or all((target / part / "train.docs").is_file() for part in names.values())


def _require_documents(sources: dict[str, list[Shard]], parts: int) -> None:
    for split, shards in sources.items():
        documents = sum(shard.n_documents for shard in shards)
        if documents < parts:
            raise UserError(
                f"baseline=random_split: {documents} documents in the {split} splits are too few "
                f"for {parts} parts: "
                "add text, or name fewer domains in run.domains"
            )


def _link(suite: Suite, domain: str, folder: Path) -> None:
    """Put a domain of the suite into `folder` as one that nothing is trained on."""
    folder.mkdir()
    for split in SPLITS:
        for ending in ("bin", "idx", "docs"):
            source = suite.path / domain / f"{split}.{ending}"
            if ending == "docs" and not source.exists():
                continue  # the suite was packed before there were any
            durable.link_or_copy(source, folder / source.name)
    durable.write_json(folder / META, suite.metas[domain] | {"novel": True})


def _write_parts(
    suite: Suite, sources: dict[str, list[Shard]], names: list[str], folder: Path
) -> None:
    splits: dict[str, Json] = {name: {} for name in names}
    for name in names:
        (folder / name).mkdir()
    for split, shards in sources.items():
        starts = [_starts(shard) for shard in shards]
        for name, hand in zip(names, hands(shards, len(names)), strict=True):
            splits[name][split] = _write(hand, shards, starts, folder / name / split)
            _write_digests(hand, shards, folder / name / f"{split}.docs")
    first = suite.metas[sources["train"][0].domain]
    common = {
        key: first[key]
        for key in ("schema", "dtype", "eos", "bos", "vocab_size", "tokenizer_sha256")
        if key in first
    }
    for name in names:
        made_of = {"source_sha256": "", "source_files": [], "settings": {"dealt": name}}
        meta = common | made_of | {"domain": name, "novel": False, "splits": splits[name]}
        durable.write_json(folder / name / META, meta)


@dataclass(frozen=True)
class Hand:
    """The documents of one part in their order: `shards` says whose each is, `documents` which of
    that shard's.
    """

    shards: np.ndarray  # uint32 (D,)
    documents: np.ndarray  # uint32 (D,)


def hands(shards: Sequence[Shard], parts: int) -> Iterator[Hand]:
    """Deal the documents of one split of several domains to `parts` parts.

    Each domain's documents are shuffled and dealt in turns, the next domain's to who is next: so
    the parts have equal numbers of documents of every domain, and in all, within 1.
    """
    split = SPLITS.index(shards[0].split)
    orders, firsts, dealt = [], [], 0
    for i, shard in enumerate(shards):
        orders.append(_generator(split, i).permutation(shard.n_documents).astype(np.uint32))
        firsts.append(dealt % parts)
        dealt += shard.n_documents
    for part in range(parts):
        mine = [
            np.sort(o[(part - f) % parts :: parts]) for o, f in zip(orders, firsts, strict=True)
        ]
        domain_D = np.repeat(np.arange(len(shards), dtype=np.uint32), [len(each) for each in mine])
        document_D = np.concatenate(mine)
        if shards[0].split != "train":
            order = _generator(split, len(shards), part).permutation(len(domain_D))
            domain_D, document_D = domain_D[order], document_D[order]
        yield Hand(domain_D, document_D)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([_SEED, *key])))


def _starts(shard: Shard) -> np.ndarray:
    """Compute the offsets of documents: where each begins, and the last ends; int64
    (n_documents + 1,).
    """
    return np.concatenate([[0], np.cumsum(shard.documents[:, 0], dtype=np.int64)])


def _write(hand: Hand, shards: list[Shard], starts: list[np.ndarray], path: Path) -> Json:
    """Write ``<path>.bin`` and ``<path>.idx``; return what meta.json says of the split."""
    whole, tokens, size = hashlib.sha256(), np.zeros(len(shards), np.int64), 0
    with path.with_suffix(".bin").open("xb") as texts, path.with_suffix(".idx").open("xb") as index:
        for ids, sizes_D2, domain_D in _gathered(hand, shards, starts):
            data = ids.tobytes()
            texts.write(data)
            index.write(sizes_D2.tobytes())
            whole.update(data)
            np.add.at(tokens, domain_D, sizes_D2[:, 0])
            size += int(sizes_D2[:, 1].sum(dtype=np.int64))
    counts = {"documents": len(hand.shards), "tokens": int(tokens.sum()), "bytes": size}
    runs = {"runs": tokens[tokens > 0].tolist()} if path.name == "train" else {}
    return {**counts, "sha256": whole.hexdigest(), "duplicates_dropped": 0, **runs}


def _write_digests(hand: Hand, shards: list[Shard], path: Path) -> None:
    """Write the digests of a part's documents, if all shards have them."""
    known = [shard.digests for shard in shards if shard.digests is not None]
    if len(known) < len(shards):
        return
    found = np.zeros(len(hand.documents), DIGEST)
    for i, digest_D in enumerate(known):
        mine = hand.shards == i
        found[mine] = digest_D[hand.documents[mine]]
    path.write_bytes(found.tobytes())


def _gathered(
    hand: Hand, shards: list[Shard], starts: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (token ids, (tokens, bytes) of each document, domain of each document), a chunk at a
    time.
    """
    texts: list[np.ndarray] = []
    begin = held = 0
    for end, (d, i) in enumerate(
        zip(hand.shards.tolist(), hand.documents.tolist(), strict=True), 1
    ):
        texts.append(shards[d].tokens[starts[d][i] : starts[d][i + 1]])
        held += len(texts[-1])
        if held >= _CHUNK or end == len(hand.shards):
            domain_D, document_D = hand.shards[begin:end], hand.documents[begin:end]
            sizes = [shards[a].documents[b] for a, b in zip(domain_D, document_D, strict=True)]
            yield np.concatenate(texts), np.stack(sizes), domain_D
            texts, begin, held = [], end, 0
