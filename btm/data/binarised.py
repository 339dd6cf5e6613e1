"""fairseq's data-bins as domains: token ids are kept, and the dictionary is the tokenizer.

    ROOT/<domain>/dict.txt                        the same in every domain
    ROOT/<domain>/{train,valid,test}.{bin,idx}    see btm/fairseq/databin.py for other names

The stream of ids is fairseq's, ``</s>`` after every line. A document ends at a blank line, as in
fairseq's ``--sample-break-mode complete_doc``; in a split without blank lines every line is a
document. Its digest is of its token ids, since the text itself is not there.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.data.shards import Shard, SplitFacts, Suite
from btm.data.splits import DIGEST, hash_bytes
from btm.data.tokenizer import ORIGIN, read_origin, tokenizer_sha256
from btm.errors import UserError
from btm.fairseq import indexed
from btm.fairseq import tokenizer as tokenizers
from btm.fairseq.dictionary import EOS, Dictionary
from btm.fairseq.indexed import Indexed
from btm.system import caches
from btm.system.durable import publish_file, publish_folder, write_json

_CHUNK = 1 << 22  # tokens held in memory at once


def ensure_tokenizer(dictionary: Dictionary, beside: Path, target: Path) -> None:
    """Publish a dictionary as the tokenizer of a suite; `UserError` if the suite has another.

    `beside` holds encoder.json and vocab.bpe if the dictionary is of byte pairs.
    """
    with caches.scratch(target.parent) as name:
        made = Path(name)
        tokenizers.write_tokenizer(dictionary, beside, made)
        if not read_origin(target):
            size = len(dictionary)
            origin = {"fairseq": {"symbols": size}, "eos": EOS, "vocab_size": size}
            with publish_folder(target) as temporary:
                shutil.copytree(made, temporary, dirs_exist_ok=True)
                write_json(temporary / ORIGIN, origin)
        elif tokenizer_sha256(target) != tokenizer_sha256(made):
            raise UserError(
                f"{target.parent} has another tokenizer than dict.txt of {beside}; "
                "use another data.name"
            )


def pack(
    opened: Mapping[str, Sequence[Indexed]], bytes_V: np.ndarray, folder: Path, dtype: np.dtype
) -> dict[str, SplitFacts]:
    """Write the splits as shards into `folder`; return the facts of each split for meta.json.

    `bytes_V` is the number of bytes of text for each symbol.
    """
    splits: dict[str, SplitFacts] = {}
    for split, parts in opened.items():
        whole, sizes = hashlib.sha256(), []
        with (folder / f"{split}.bin").open("wb") as out:
            for tokens, lines in _chunks(parts):
                data = tokens.astype(dtype).tobytes()
                out.write(data)
                whole.update(data)
                starts = np.cumsum(lines, dtype=np.int64) - lines
                text = np.maximum(np.add.reduceat(bytes_V[tokens], starts), 1)
                sizes.append(np.stack([lines, text], axis=1))
        documents = _documents(np.concatenate(sizes))
        (folder / f"{split}.idx").write_bytes(documents.astype(np.uint32).tobytes())
        tokens = np.memmap(folder / f"{split}.bin", dtype, "r")
        (folder / f"{split}.docs").write_bytes(digests(tokens, documents[:, 0]).tobytes())
        n_tokens, n_bytes = documents.sum(axis=0).tolist()
        splits[split] = {
            "documents": len(documents),
            "tokens": n_tokens,
            "bytes": n_bytes,
            "sha256": whole.hexdigest(),
            "duplicates_dropped": 0,
        }
    return splits


def digests(tokens: np.ndarray, sizes_D: np.ndarray) -> np.ndarray:
    """Hash the token ids of each document, (D,), without the ends of lines that close it."""
    ends_D = np.cumsum(sizes_D, dtype=np.int64)
    found = np.zeros(len(ends_D), DIGEST)
    for i, (size, end) in enumerate(zip(sizes_D.tolist(), ends_D.tolist(), strict=True)):
        ids = tokens[end - size : end]
        words = np.flatnonzero(ids != EOS)
        kept = ids[: words[-1] + 1 if len(words) else 0]
        found[i] = hash_bytes(kept.astype("<u4").tobytes())
    return found


def add_digests(folder: Path) -> None:
    """Give a domain that was packed without them the digests of its documents."""
    for split in SPLITS:
        shard = Shard.open(folder, split)
        with publish_file(folder / f"{split}.docs") as handle:
            handle.write(digests(shard.tokens, shard.documents[:, 0]).tobytes())


def _chunks(parts: Sequence[Indexed]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (tokens, sizes) of whole lines, about `_CHUNK` tokens at once."""
    for part in parts:
        ends = np.cumsum(part.sizes, dtype=np.int64)
        begin = 0
        while begin < len(ends):
            start = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, start + _CHUNK, side="right")))
            tokens = np.asarray(part.tokens[start : ends[end - 1]])
            yield tokens, part.sizes[begin:end].astype(np.int64)
            begin = end


def _documents(lines_N2: np.ndarray) -> np.ndarray:
    """Join the (tokens, bytes) of lines into documents, each up to a blank line (``</s>`` alone).

    Without any blank line, every line is a document.
    """
    blank = lines_N2[:, 0] == 1
    if not blank.any():
        return lines_N2
    starts = np.flatnonzero(blank[:-1] & ~blank[1:]) + 1
    return np.add.reduceat(lines_N2, np.concatenate([[0], starts]), axis=0)


def write(suite: Suite, domain: str, target: Path) -> None:
    """Publish a domain as the data-bin `target`, for fairseq-train and fairseq-eval-lm.

    A line ends at each end of text, so what was read from a data-bin is written as it was, bit for
    bit. A tokenizer that is not made from a dictionary gets one: its byte pairs as GPT-2's, with
    encoder.json and vocab.bpe beside.
    """
    exported = tokenizers.export(suite.tokenizer)
    shards = {split: suite.shard(domain, split) for split in SPLITS}
    with publish_folder(target) as temporary:
        exported.write(temporary)
        for split, shard in shards.items():
            lines = _lines(shard, exported.table)
            indexed.write(temporary / split, lines, len(exported.dictionary))


def _lines(shard: Shard, table: np.ndarray) -> Iterator[Indexed]:
    """Yield a shard's tokens by their ids in the dictionary, in whole lines."""
    left = np.empty(0, shard.dtype)
    for begin in range(0, shard.n_tokens, _CHUNK):
        tokens = np.concatenate([left, shard.tokens[begin : begin + _CHUNK]])
        ends = np.flatnonzero(tokens == shard.eos) + 1
        whole = int(ends[-1]) if len(ends) else 0
        yield Indexed(table[tokens[:whole]], np.diff(ends, prepend=0).astype(np.int32))
        left = tokens[whole:]
