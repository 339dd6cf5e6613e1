"""Shards that count themselves, `train-00003-of-00008.parquet`: whether all of them are there."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_NUMBERED = re.compile(r"(.*?)(\d+)([-_ ]of[-_ ])(\d+)(.*)")


def shard_of(path: Path) -> str | None:
    """Give the name of the set that a file is a shard of; None if it is none."""
    found = _NUMBERED.fullmatch(path.name)
    return found[1].rstrip("-_. ") if found else None


def incomplete(files: Iterable[Path]) -> list[str]:
    """Say of each set of shards that lacks some how many are there."""
    there: dict[tuple[Path, str, int], set[int]] = defaultdict(set)
    for path in files:
        if found := _NUMBERED.fullmatch(path.name):
            before, number, of, total, after = found.groups()
            # The Hub ends the name of each shard with another hash.
            after = re.sub(r"-[0-9a-f]{8,}", "", after)
            name = f"{before}*{of}{total}{after}"
            there[path.parent, name, int(total)].add(int(number))
    return [
        f"{len(numbers):,} of the {total:,} shards {name}"
        for (_, name, total), numbers in sorted(there.items())
        if len(numbers) < total
    ]
