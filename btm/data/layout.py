"""The arrangement of a domain's files: one pool, or splits told by the names of files and folders.

A split that nothing is named after is drawn from train, and what is named valid or test is never
trained on. What says nothing clear is refused.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data.formats import stem_of
from btm.data.passed_over import NAMED, PassedOver
from btm.data.split_names import above_split, splits_of, word_of
from btm.data.words import ignoring
from btm.errors import UserError

POOL = ""  # the key of files that are still to be split
Files = dict[str, tuple[Path, ...]]


def arrange(
    folder: Path, files: Sequence[Path], unread: Sequence[PassedOver], config: DataConfig
) -> Files:
    """Arrange the files below `folder` by split, or as a `POOL`; `UserError` if it is not clear.

    `unread` are those beside them that cannot be read: one of them may be a split's.
    """
    said = {path: splits_of(path.relative_to(folder)) for path in files}
    if config.splits == "pool" or not any(said.values()):
        return {POOL: tuple(files)}
    for path, splits in said.items():
        if len(splits) > 1:
            raise UserError(
                f"{path}: is named both {' and '.join(sorted(splits))}; {_remedy(folder, path)}"
            )
    if not all(said.values()):
        raise _unclear(folder, said)
    by_split: dict[str, list[Path]] = defaultdict(list)
    for path, splits in said.items():
        by_split[next(iter(splits))].append(path)
    _require_one_set(folder, said)
    for split, paths in by_split.items():
        _require_one_series(folder, split, paths)
    _require_train(folder, by_split, unread)
    return {split: tuple(by_split[split]) for split in SPLITS if split in by_split}


def _unclear(folder: Path, said: Mapping[Path, set[str]]) -> UserError:
    """Describe files that say no split beside others that do; the fewer of the two are at fault."""
    silent = [path for path, splits in said.items() if not splits]
    naming = [path for path, splits in said.items() if splits]
    if len(naming) < len(silent):
        (split,) = said[naming[0]]
        return UserError(
            f"{_and_more(naming)}: is of the {split} split by its name, and "
            f"{len(silent):,} files beside it are of none; {_remedy(folder, naming[0])}"
        )
    there = ", ".join(split for split in SPLITS if {split} in said.values())
    return UserError(
        f"{_and_more(silent)}: is neither train, valid nor test, beside files of {there}; "
        f"{_remedy(folder, silent[0])}"
    )


def _and_more(paths: Sequence[Path]) -> str:
    more = f" (and {len(paths) - 1:,} more)" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def _require_one_set(folder: Path, said: Mapping[Path, set[str]]) -> None:
    """Refuse folders below that have splits of their own each: they may be domains."""
    splits_in: dict[str, set[str]] = defaultdict(set)
    for path, splits in said.items():
        splits_in[above_split(path.relative_to(folder))] |= splits
    whole = [name for name, splits in splits_in.items() if len(splits) > 1]
    if len(whole) > 1:
        raise UserError(
            f"{folder}: {', '.join(whole[:NAMED])} each have splits of their own; if they are "
            f"domains, data.root must be {folder}, else move the files of each split together"
        )


def _require_one_series(folder: Path, split: str, paths: Sequence[Path]) -> None:
    """Refuse a split that stands there twice: in two formats, or under two of its names."""
    first: dict[Path, Path] = {}
    words: dict[str, Path] = {}
    for path in paths:
        bare = path.with_name(stem_of(path))
        other = first.setdefault(bare, path)
        if other is path:
            word = word_of(path.relative_to(folder))
            other = next((of for known, of in words.items() if known != word), path)
            words.setdefault(word or split, path)
        if other is not path:
            raise UserError(
                f"{path}: {other.relative_to(folder)} is the {split} split already; keep one, or "
                f"leave one out with {_ignoring(folder, path)}"
            )


def _require_train(
    folder: Path, by_split: dict[str, list[Path]], unread: Sequence[PassedOver]
) -> None:
    """Refuse a domain that lacks a split of which there is an unread file, or lacks train."""
    for each in unread:
        for split in splits_of(each.path.relative_to(folder)) - by_split.keys():
            left = f" for a {split} split drawn from train" if split != "train" else ""
            raise UserError(
                f"{each.path}: is of the {split} split by its name, and is not read ({each.why}); "
                f"make it a file that is read, or leave it out with "
                f"{_ignoring(folder, each.path)}{left}"
            )
    if "train" not in by_split:
        paths = [path for paths in by_split.values() for path in paths]
        have = ", ".join(path.relative_to(folder).as_posix() for path in paths[:NAMED])
        raise UserError(
            f"{folder}: no train split beside {have}; add it, rename those that are to be split, "
            "or set data.splits=pool to split all of them anew"
        )


def _remedy(folder: Path, path: Path) -> str:
    return (
        f"rename it, leave it out with {_ignoring(folder, path)}, or set "
        "data.splits=pool to split all files anew"
    )


def _ignoring(folder: Path, path: Path) -> str:
    """Write the word that leaves out a file: by its path, with the domain's folder."""
    return ignoring(path.relative_to(folder.parent).as_posix())
