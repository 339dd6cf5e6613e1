"""What is passed over in a folder of text, and how that is said.

Two kinds: what is *unread* may be text that somebody misses; what is *set aside* is litter of
systems, hidden files, pages about the text, links that lead back, and what `data.ignore` names.
`data.unread` decides about the former; the latter is named and no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from btm.errors import UserError

NAMED = 10  # files that are named of each kind; the others are counted
HIDDEN, LITTER, ABOUT, IGNORED = "hidden", "litter", "about the text", "by data.ignore"
AGAIN = "links to a folder that is read already"
NOWHERE, NO_FILE, BARE = "dangling links", "special files", "without ending"
_SET_ASIDE = (HIDDEN, LITTER, ABOUT, IGNORED, AGAIN)


@dataclass(frozen=True)
class PassedOver:
    """A file, a folder or a link that is not read, and why."""

    path: Path
    why: str  # of _SET_ASIDE; else a reason, an ending such as ".pdf", or a sentence of this file
    domain: str = ""  # that it would be of; empty at the top

    @property
    def unread(self) -> bool:
        """Whether it may be text that is missed."""
        return self.why not in _SET_ASIDE


def unread_of(passed: Iterable[PassedOver], domain: str) -> list[PassedOver]:
    """Select what is unread of a domain; of the top of the folder if that is empty."""
    return [each for each in passed if each.unread and each.domain == domain]


def counted(passed: Iterable[PassedOver]) -> str:
    """Count by reason, the most first: ``.pdf 5, dangling links 1``."""
    return _listed([f"{why} {len(group):,}" for why, group in _by_reason(passed)])


def named(passed: Iterable[PassedOver], root: Path) -> str:
    """Count by reason, and name the first ten of each."""
    return _listed(
        [f"{why} {len(group):,} ({_first(group, root)})" for why, group in _by_reason(passed)]
    )


def lines(passed: Sequence[PassedOver], root: Path, read: dict[str, int]) -> list[str]:
    """Say what is passed over below `root`, a line for each domain; `read` counts its files."""
    said = []
    for domain in sorted({each.domain for each in passed if each.unread}):
        unread = unread_of(passed, domain)
        files = len(unread) + read.get(domain, 0)
        where = f"{domain}: {len(unread):,} of {files:,} files are not read"
        if not domain:
            where = f"{root}: {len(unread):,} files beside the domains are not read"
        said.append(f"{where}: {named(unread, root)}")
    if aside := [each for each in passed if not each.unread]:
        said.append(f"{root}: set aside {named(aside, root)}")
    return said


def refuse(passed: Sequence[PassedOver], root: Path, read: dict[str, int]) -> None:
    """Raise `UserError` if anything is unread (`data.unread=refuse`)."""
    said = lines([each for each in passed if each.unread], root, read)
    if said:
        raise UserError(
            f"data.unread=refuse: {'; '.join(said)}; make them files that are read, leave them "
            "out with data.ignore=[…], or set data.unread=report"
        )


def _by_reason(passed: Iterable[PassedOver]) -> list[tuple[str, list[PassedOver]]]:
    def by_why(each: PassedOver) -> str:
        return each.why

    groups = [(why, list(group)) for why, group in groupby(sorted(passed, key=by_why), by_why)]
    return sorted(groups, key=lambda each: (-len(each[1]), each[0]))


def _first(group: Sequence[PassedOver], root: Path) -> str:
    names = [_below(each.path, root) for each in group[:NAMED]]
    return ", ".join(names) + (", …" if len(group) > NAMED else "")


def _listed(reasons: list[str]) -> str:
    more = f" and {len(reasons) - NAMED} more kinds" if len(reasons) > NAMED else ""
    return ", ".join(reasons[:NAMED]) + more


def _below(path: Path, root: Path) -> str:
    """Write a path as it stands below `root`, in one line whatever is in it."""
    below = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in below)
