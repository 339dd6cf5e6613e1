"""Data-bins, the folders that fairseq-preprocess writes: dict.txt and two files per split.

dict.txt
{train,valid,test}.{bin,idx}          train1, train2 … go on where train ends
{valid,test}_<name>.{bin,idx}         in place of valid and test, as the BTM authors name them
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.errors import UserError
from btm.fairseq import dictionary as dictionaries
from btm.fairseq import indexed
from btm.fairseq import tokenizer as tokenizers
from btm.fairseq.dictionary import EOS, Dictionary
from btm.fairseq.indexed import Indexed


def is_data_bin(folder: Path) -> bool:
    """Tell whether `folder` looks like the output of fairseq-preprocess."""
    return (folder / dictionaries.FILE).is_file() and any(folder.glob("*.idx"))


def files_of(folder: Path) -> dict[str, tuple[Path, ...]]:
    """List each split's .idx and .bin files; `UserError` for a missing or ambiguous split."""
    found = {split: _prefixes(folder, split) for split in SPLITS}
    for split, prefixes in found.items():
        if (len(prefixes) != 1 and split != "train") or not prefixes:
            have = ", ".join(sorted(path.stem for path in folder.glob("*.idx")))
            raise UserError(
                f"{folder}: wanted one {split} or {split}_<name> (.bin and .idx); have: {have}"
            )
    return {
        split: tuple(indexed.with_ending(p, ending) for p in prefixes for ending in ("idx", "bin"))
        for split, prefixes in found.items()
    }


def _prefixes(folder: Path, split: str) -> list[Path]:
    """List the files that fairseq joins as `split`: train, train1, train2 …; or `split`_<name>."""
    if indexed.exists(folder / split):
        more = (folder / f"{split}{i}" for i in count(1)) if split == "train" else iter(())
        return [folder / split, *_while_there(more)]
    named = sorted(path.with_suffix("") for path in folder.glob(f"{split}_*.idx"))
    return [prefix for prefix in named if indexed.exists(prefix)]


def _while_there(prefixes: Iterator[Path]) -> Iterator[Path]:
    for prefix in prefixes:
        if not indexed.exists(prefix):
            return
        yield prefix


def shared_dictionary(folders: Sequence[Path]) -> Dictionary:
    """Read the dictionary that all domains share; `UserError` if two of them differ."""
    first = tokenizers.find_dictionary(folders[0])
    for folder in folders[1:]:
        if tokenizers.find_dictionary(folder).symbols != first.symbols:
            raise UserError(
                f"{folder / dictionaries.FILE} is not {folders[0] / dictionaries.FILE}; a suite "
                "has one tokenizer: binarise all domains with the same --srcdict"
            )
    return first


def read(files: Mapping[str, Sequence[Path]], dictionary: Dictionary) -> dict[str, list[Indexed]]:
    """Open the splits of a data-bin; `UserError` for a truncated file, or lines without </s>."""
    opened = {}
    for split, paths in files.items():
        prefixes = [path.with_suffix("") for path in paths if path.suffix == ".idx"]
        opened[split] = [indexed.read(prefix, len(dictionary)) for prefix in prefixes]
        for prefix, part in zip(prefixes, opened[split], strict=True):
            ends = np.cumsum(part.sizes, dtype=np.int64) - 1
            if not len(ends):
                raise UserError(f"{prefix}.idx: no line; every split needs some")
            if not part.sizes.all() or (part.tokens[ends] != EOS).any():
                raise UserError(
                    f"{prefix}.bin: lines that </s> does not end; wanted what "
                    "fairseq-preprocess writes"
                )
    return opened
