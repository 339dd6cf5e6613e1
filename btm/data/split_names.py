"""Splits told by the names of files and folders: `train-00000-of-00002`, `wiki.valid`, `dev/…`.

A name says a split if one of its words is a word of that split and none is of another. A word is a
run of letters, so `train2` and `lawTest` have one and `latest` has none. A path says what its parts
say: `data/test/a` is of test; one whose parts contradict one another says nothing clear.
"""

import re
from pathlib import PurePath

from btm.data.formats import stem_of

WORDS = {
    "train": ("train",),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
# As a whole name alone: in longer ones these words are as often about the text.
_ALONE = {"training": "train", "testing": "test"}
_OF_SHARDS = frozenset(["of", "part", "shard", "chunk", "data", "set", "split", "file"])
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_HASH = re.compile(
    r"(?<![0-9a-z])[0-9a-f]{8,}(?![0-9a-z])"
)  # the Hub's names of shards may end in one


def splits_of(path: PurePath) -> set[str]:
    """Collect the splits that the parts of a relative path say; more than one contradict."""
    parts = [*path.parts[:-1], stem_of(path)]
    return {split for part in parts if (split := split_of(part)) is not None}


def split_of(name: str) -> str | None:
    """Tell the split that a name without endings says; None if it says none, or several."""
    words = words_of(name)
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    found |= {_ALONE[word] for word in words if word in _ALONE and is_plain(name)}
    return found.pop() if len(found) == 1 else None


def is_plain(name: str) -> bool:
    """Tell whether a name is the word of a split alone, but for the number of a shard."""
    said = [word for word in words_of(name) if word not in _OF_SHARDS]
    return len(said) == 1 and said[0] in _SPLIT_OF | _ALONE


def word_of(path: PurePath) -> str | None:
    """Give the first word of a split in a path: `val` for `data/val-0.jsonl`."""
    for part in [*path.parts[:-1], stem_of(path)]:
        if split_of(part) is not None:
            known = [word for word in words_of(part) if word in _SPLIT_OF | _ALONE]
            return known[0]
    return None


def above_split(path: PurePath) -> str:
    """Give the folder above the part of a path that says a split: `en` for `en/train/0.jsonl`."""
    parts = [*path.parts[:-1], stem_of(path)]
    first = next((i for i, part in enumerate(parts) if split_of(part) is not None), len(parts) - 1)
    return "/".join(parts[:first]) or "."


def words_of(name: str) -> list[str]:
    """List the words of a name in small letters, without the hash of a shard."""
    return re.findall(r"[a-z]+", _HASH.sub("", _HUMP.sub(" ", name).lower()))


def without_split(name: str) -> str:
    """Give what a name says beside its split and shard, in small letters: `law` for `Law_test2`."""
    words = re.findall(r"[^\W\d_]+|\d+", _HUMP.sub(" ", name).lower())
    kept: list[str] = []
    behind = False  # the word of a split, where a shard has its number
    for word in words:
        if word in _SPLIT_OF or word in _ALONE:
            behind = True
        elif not (behind and (word.isdigit() or word in _OF_SHARDS)):
            kept.append(word)
    return " ".join(kept)
