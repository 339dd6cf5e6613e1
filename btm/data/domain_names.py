"""Names of domains: those that files and folders give, and those of `data.names`."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from btm.config.checks import is_name
from btm.data.folders import normal
from btm.data.formats import stem_of
from btm.data.words import ignoring, naming
from btm.errors import UserError, unknown

_LONGEST = 63
_PROPOSED = 40  # names that are proposed in one error


def name_of(entry: Path) -> str:
    """Give the name that a folder or file has of its own, without endings."""
    return entry.name if entry.is_dir() else stem_of(entry)


def named(candidates: Iterable[Path], names: Mapping[str, str], root: Path) -> dict[Path, str]:
    """Name the domain of each folder or file below `root`.

    `names` maps the name of a folder or a file, with its endings or without, to a domain. Raises
    `UserError` for names that are none, with a map that mends them, and for a map without effect.
    """
    given = {normal(old): new for old, new in names.items()}
    found: dict[Path, str] = {}
    used = set()
    for entry in candidates:
        own = (normal(entry.name), normal(name_of(entry)))
        key = next((name for name in own if name in given), None)
        found[entry] = own[1] if key is None else given[key]
        used.add(key)
    for old in given:
        if old not in used:
            have = [entry.name for entry in found]
            raise unknown("folder or file", old, have, f"{root}, though data.names maps it")
    if wrong := [entry for entry, name in found.items() if not is_name(name)]:
        raise _no_names(root, wrong, names, {name for name in found.values() if is_name(name)})
    return found


def propose(name: str, taken: Collection[str]) -> str:
    """Make a valid name of any: `PubMed Central` gives pubmed_central; one that is not `taken`."""
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    made = re.sub(r"[^a-z0-9._-]+", "_", plain).strip("._-")[:_LONGEST].rstrip("._-") or "domain"
    number, proposed = 2, made
    while proposed in taken:
        proposed = f"{made[: _LONGEST - 4]}_{number}"
        number += 1
    return proposed


def _no_names(
    root: Path, wrong: list[Path], names: Mapping[str, str], taken: set[str]
) -> UserError:
    """Refuse names, and propose the map that gives valid ones to all of them."""
    proposed: dict[str, str] = {}
    for entry in wrong[:_PROPOSED]:
        own = normal(name_of(entry))
        # Two entries may have one name and different endings; the map then needs the endings.
        key = own if own not in proposed else normal(entry.name)
        proposed[key] = propose(own, {*taken, *proposed.values()})
    more = f" and {len(wrong) - _PROPOSED} more" if len(wrong) > _PROPOSED else ""
    listed = ", ".join(repr(name_of(entry)) for entry in wrong[:_PROPOSED]) + more
    verb = "is no valid name" if len(wrong) == 1 else "are no valid names"
    return UserError(
        f"{root}: {listed} {verb} of a domain (1 to 63 of a-z 0-9 . _ - that start with "
        f"a letter or digit); give names with {naming(dict(names) | proposed)}, or leave out "
        f"what is no domain with {ignoring(*(entry.name for entry in wrong[:_PROPOSED]))}"
    )
