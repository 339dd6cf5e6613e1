"""The rows of `btm ls`: chosen, ordered and cut."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from btm import tombstone
from btm.checks import check_moment
from btm.config import LsConfig
from btm.errors import UserError
from btm.forest import Branch, Forest
from btm.registry import index
from btm.registry.index import Entry

Row = dict[str, Any]
_STATES = {"branch": "branch", "trained": "trained branch"}  # ls.state: what a row says


def rows(root: Path, chosen: LsConfig) -> list[Row]:
    """Return a row for each ELM of a forest, each branch in the making, and, if asked for, each that was removed."""
    forest = Forest(root)
    found = [("damaged" if entry.damaged else "ELM", entry) for entry in index.entries(root)]
    found += [_of_branch(made) for made in forest.branches()]
    if chosen.removed or chosen.state == "removed":
        found += [("removed", Entry.of(stone.name, stone.card)) for stone in tombstone.all_of(root)]
    kept = [(state, entry) for state, entry in found if _matches(state, entry, chosen)]
    kept.sort(key=lambda pair: pair[1].name)
    if chosen.sort != "name":
        kept.sort(key=lambda pair: _order(pair[1], chosen.sort), reverse=chosen.reverse)
        kept.sort(key=lambda pair: _value(pair[1], chosen.sort) is None)  # what is not known stands last
    elif chosen.reverse:
        kept.reverse()
    return [_row(state, entry) for state, entry in (kept[: chosen.limit] if chosen.limit else kept)]


def _matches(state: str, entry: Entry, chosen: LsConfig) -> bool:
    since, before = check_moment(chosen.since, "ls.since"), check_moment(chosen.before, "ls.before")
    if chosen.state is not None and state != _STATES.get(chosen.state, chosen.state):
        return False
    if chosen.name is not None and not fnmatchcase(entry.name, chosen.name):
        return False
    if chosen.domain is not None and chosen.domain not in entry.domains:
        return False
    if chosen.parent is not None and chosen.parent not in entry.parents:
        return False
    if chosen.ancestor is not None:
        descends = chosen.ancestor in entry.parents or any(
            chosen.ancestor == name for name, _ in entry.ancestors
        )
        if not descends:
            return False
    if since and not (entry.created and entry.created >= since):
        return False
    return not before or bool(entry.created and entry.created < before)


def _value(entry: Entry, key: str) -> Any:
    """Return what an entry is ordered by; None where that is not known."""
    if key == "domain":
        return entry.domains[0] if entry.domains else None
    value = getattr(entry, key)
    return None if value == "" else value


def _order(entry: Entry, key: str) -> Any:
    value = _value(entry, key)
    if value is None:
        return "" if key in ("domain", "created") else 0
    return value


def _of_branch(made: Branch) -> tuple[str, Entry]:
    try:
        state = "trained branch" if made.result else "branch"
        parents = {name: [parent.weight, parent.sha256] for name, parent in made.parents.items()}
        ancestors = [[spent["name"], spent["sha256"]] for spent in made.origin.get("ancestors", [])]
        entry = Entry.unreadable(made.name, "")
        return state, entry._replace(domains=made.domains, parents=parents, ancestors=ancestors)
    except (UserError, TypeError, KeyError) as error:
        return "damaged", Entry.unreadable(made.name, str(error))


def _row(state: str, entry: Entry) -> Row:
    known = state in ("ELM", "removed")
    row = {
        "name": entry.name,
        "state": state,
        "domains": entry.domains,
        "parents": {name: round(weight, 4) for name, (weight, _) in entry.parents.items()},
        "tokens": entry.tokens if known else None,
        "total tokens": entry.total_tokens if known else None,
        "valid nats": entry.valid_nats,
        "created": entry.created,
        "sha256": entry.sha256[:12],
    }
    return row | ({"why": entry.damaged} if entry.damaged else {})
