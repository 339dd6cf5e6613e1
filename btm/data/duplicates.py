"""Documents that stand in several domains: each is kept once, and held out rather than trained on.

Of the copies in domains that are read together, that in a test split is kept rather than one in a
valid split, and that rather than one in a train split; of equals, that of the first domain by name.
So which is kept follows from the texts alone. Domains that are prepared already stay as they are,
and what is added to them gives way.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.data.shards import Shard
from btm.data.splits import DROPPED, PRIORITY, Survey
from btm.errors import UserError

_HELD_OUT = ("test", "valid")
_NOWHERE = -1


@dataclass(frozen=True)
class Standing:
    """The documents of one prepared split."""

    place: str  # <domain>/<split>, or <suite>/<domain>/<split> in another suite
    split: str
    digests: np.ndarray  # uint64 (D,)
    elsewhere: bool  # in another suite

    @property
    def held_out(self) -> bool:
        """Whether no ELM may be trained on its documents."""
        return self.split in _HELD_OUT


def standing_in(folder: Path, elsewhere: bool = False) -> list[Standing]:
    """List the splits of a prepared domain; none if it was packed before there were digests."""
    found = []
    for split in SPLITS:
        digests = Shard.open(folder, split).digests
        if digests is None:
            return []
        suite = f"{folder.parent.name}/" if elsewhere else ""
        place = f"{suite}{folder.name}/{split}"
        found.append(Standing(place, split, np.asarray(digests), elsewhere))
    return found


def settled(seen: Survey) -> list[Standing]:
    """List the splits of a domain that is about to be packed, as they will stand."""
    return [
        Standing(f"{seen.source.domain}/{split}", split, seen.digests(split), elsewhere=False)
        for split in SPLITS
    ]


def settle(surveys: Sequence[Survey], standing: Sequence[Standing] = ()) -> list[Survey]:
    """Drop every document of `surveys` that is to be kept elsewhere; return the surveys.

    What stands in the same suite is not taken again, nor what another suite holds out. What another
    suite trains on may be trained on here too, but not held out. Keeps 8 bytes for a document that
    stands, and about 60 a document for an instant.
    """
    if not surveys:
        return []
    split_D = np.concatenate([each.split_of for each in surveys])
    digest_D = np.concatenate([each.digest_of for each in surveys])
    held_out_D = np.isin(split_D, [SPLITS.index(split) for split in _HELD_OUT])
    places = [each.place for each in standing]
    found_D = np.full(len(split_D), _NOWHERE, np.int32)
    for i, each in enumerate(standing):
        asked_D = (found_D == _NOWHERE) & (split_D != DROPPED)
        if each.elsewhere and not each.held_out:
            asked_D &= held_out_D
        found_D[asked_D & np.isin(digest_D, each.digests)] = i
    winner_D = _winners(surveys, np.where(found_D == _NOWHERE, split_D, DROPPED), digest_D)
    lost_D = (found_D == _NOWHERE) & (winner_D != _NOWHERE)
    found_D[lost_D] = len(places) + winner_D[lost_D]
    places += [f"{each.source.domain}/{split}" for each in surveys for split in SPLITS]
    ends = np.cumsum([len(each.split_of) for each in surveys])
    parts = np.split(found_D, ends[:-1])
    return [_without(each, part, places) for each, part in zip(surveys, parts, strict=True)]


def require_documents(surveys: Iterable[Survey]) -> None:
    """Raise `UserError` if a split of a domain has no document left."""
    for each in surveys:
        for split, count in each.splits.items():
            if not count.documents:
                raise UserError(
                    f"{each.source.domain}: each of the {sum(count.found_in.values())} documents "
                    f"of its {split} split stands elsewhere too ({in_words(count.found_in)}); "
                    "give it other text, or leave it out"
                )


def in_words(found_in: Mapping[str, int]) -> str:
    """Write {place: documents} as a list for people, the most first."""
    most_first = sorted(found_in.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{place} {count:,}" for place, count in most_first)


def _winners(surveys: Sequence[Survey], split_D: np.ndarray, digest_D: np.ndarray) -> np.ndarray:
    """Find for each document the split that keeps another copy of it, int32 (D,).

    Splits are counted through all domains: domain · 3 + split. `_NOWHERE` for a document that is
    kept itself, or was dropped before.
    """
    names = [each.source.domain for each in surveys]
    by_name_D = np.repeat(
        np.argsort(np.argsort(names)).astype(np.uint32), [len(each.split_of) for each in surveys]
    )
    home_D = np.repeat(
        np.arange(len(surveys), dtype=np.int32), [len(each.split_of) for each in surveys]
    )
    order = np.lexsort((by_name_D, PRIORITY[split_D], digest_D))
    new = np.ones(len(order), bool)
    new[1:] = digest_D[order[1:]] != digest_D[order[:-1]]
    first_D = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    winner_D = np.full(len(order), _NOWHERE, np.int32)
    lost = ~new & (split_D[order] != DROPPED)
    kept = first_D[lost]
    winner_D[order[lost]] = home_D[kept] * len(SPLITS) + split_D[kept]
    return winner_D


def _without(seen: Survey, found_D: np.ndarray, places: Sequence[str]) -> Survey:
    """Drop the documents of a domain that are found in another place, and count them."""
    found = found_D != _NOWHERE
    counts = {}
    for index, split in enumerate(SPLITS):
        lost = found & (seen.split_of == index)
        count = seen.splits[split]
        names = Counter(places[i] for i in found_D[lost].tolist())
        counts[split] = replace(
            count,
            documents=count.documents - int(lost.sum()),
            bytes=count.bytes - int(seen.size_of[lost].sum(dtype=np.int64)),
            duplicates_dropped=count.duplicates_dropped + int(lost.sum()),
            found_in=dict(sorted((Counter(count.found_in) + names).items())),
        )
    return replace(seen, split_of=np.where(found, np.uint8(DROPPED), seen.split_of), splits=counts)
