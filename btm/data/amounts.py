"""How many training tokens a domain has: counted where its text is prepared, else estimated."""

from pathlib import Path

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data.documents import Source
from btm.data.formats import packed
from btm.data.layout import POOL
from btm.data.shards import read_meta
from btm.fairseq import indexed

BYTES_PER_TOKEN = 3  # those of d64 at a vocabulary of 8,192 (docs/corpora.md)
_UNPACKED = 3  # bytes of text in a byte of a compressed file, about


def of(config: DataConfig, domain: str) -> int:
    """Read the number of training tokens of a prepared domain; 0 for one that is not prepared."""
    meta = read_meta(Path(config.out) / config.name / domain)
    return 0 if meta is None else int(meta["splits"][SPLITS[0]]["tokens"])


def about(config: DataConfig, source: Source) -> int:
    """Estimate the training tokens of text that is not prepared, from the size of its files; those
    of fairseq are counted.
    """
    held_out = {"valid": config.valid_fraction, "test": config.test_fraction}
    share = 1 - sum(held_out[split] for split in source.drawn)
    paths = [path for split, path in source.listing() if split in (SPLITS[0], POOL)]
    if source.binarised:
        indices = (path for path in paths if path.suffix == ".idx")
        return round(share * sum(map(indexed.count_tokens, indices)))
    size = sum(path.stat().st_size * (_UNPACKED if packed(path) else 1) for path in paths)
    return round(share * size / BYTES_PER_TOKEN)
