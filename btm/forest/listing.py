"""The rows of `btm ls`: chosen, ordered and cut."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from btm.config.checks import check_moment
from btm.config.schema import LsConfig
from btm.errors import UserError
from btm.forest import index, tombstone
from btm.forest.branch import Branch
from btm.forest.forest import Forest
from btm.forest.index import Entry
from btm.forest.lineage import BRANCH, DERIVED, ELM, Lineage
from btm.report.tables import TableRow

_STATES = {"branch": "branch", "trained": "trained branch"}  # ls.state: what a row says


def rows(root: Path, chosen: LsConfig) -> list[TableRow]:
    """List the models and branches of a forest, and the removed ELMs if `chosen` asks for
    them, a row each.
    """
    forest = Forest(root)
    found = [("damaged" if entry.damaged else entry.kind, entry) for entry in index.entries(root)]
    found += [_of_branch(made) for made in forest.branches()]
    if chosen.removed or chosen.state == "removed":
        found += [("removed", Entry.of(stone.name, stone.card)) for stone in tombstone.all_of(root)]
    return shown(found, chosen, lambda ancestor: _below(root, ancestor))


def shown(
    found: list[tuple[str, Entry]], chosen: LsConfig, below: Callable[[str], set[tuple[str, str]]]
) -> list[TableRow]:
    """Choose, order and cut (state, entry) pairs, and make a row of each.

    `below` finds the (kind, name) of all that descends from an ELM.
    """
    tests = _tests(chosen, below)
    kept = [pair for pair in found if all(test(*pair) for test in tests)] if tests else found
    kept.sort(key=lambda pair: pair[1].name)
    if chosen.sort != "name":
        kept.sort(key=lambda pair: _order(pair[1], chosen.sort), reverse=chosen.reverse)
        kept.sort(
            key=lambda pair: _value(pair[1], chosen.sort) is None
        )  # unknown values stand last
    elif chosen.reverse:
        kept.reverse()
    return [_row(state, entry) for state, entry in (kept[: chosen.limit] if chosen.limit else kept)]


def _tests(
    chosen: LsConfig, below: Callable[[str], set[tuple[str, str]]]
) -> list[Callable[[str, Entry], bool]]:
    """Make the tests that a row must pass, from the user's choices."""
    name, domain, parent, state = chosen.name, chosen.domain, chosen.parent, chosen.state
    since, before = check_moment(chosen.since, "ls.since"), check_moment(chosen.before, "ls.before")
    tests: list[Callable[[str, Entry], bool]] = []
    if state is not None:
        tests.append(lambda s, e: s == _STATES.get(state, state))
    if name is not None:
        tests.append(lambda s, e: fnmatchcase(e.name, name))
    if domain is not None:
        tests.append(lambda s, e: domain in e.domains)
    if parent is not None:
        tests.append(lambda s, e: parent in e.parents)
    if since:
        tests.append(lambda s, e: bool(e.created) and e.created >= since)
    if before:
        tests.append(lambda s, e: bool(e.created) and e.created < before)
    if chosen.ancestor is not None:
        heirs = below(chosen.ancestor)
        tests.append(lambda s, e: (e.kind, e.name) in heirs)
    return tests


def _below(root: Path, ancestor: str) -> set[tuple[str, str]]:
    """Find the (kind, name) of all descendants of an ELM, removed or not."""
    lineage = Lineage.of(root)
    named = [key for key in lineage.nodes if key.kind == ELM and key.name == ancestor]
    return {(heir.kind, heir.name) for key in named for heir in lineage.descendants(key)}


def _value(entry: Entry, key: str) -> Any:
    """Read the value that an entry is ordered by; None where it is not known."""
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
        parents = {name: parent.weight for name, parent in made.parents.items()}
        entry = Entry.unreadable(made.name, "", BRANCH)
        return state, entry._replace(domains=made.domains, parents=parents)
    except (UserError, TypeError, KeyError) as error:
        return "damaged", Entry.unreadable(made.name, str(error), BRANCH)


def _row(state: str, entry: Entry) -> TableRow:
    known = state in (ELM, *DERIVED, "removed")
    row: TableRow = {
        "name": entry.name,
        "state": state,
        "domains": entry.domains,
        "parents": {name: round(weight, 4) for name, weight in entry.parents.items()},
        "tokens": entry.tokens if known else None,
        "total tokens": entry.total_tokens if known else None,
        "valid nats": entry.valid_nats,
        "created": entry.created,
        "sha256": entry.sha256[:12],
    }
    return row | ({"why": entry.damaged} if entry.damaged else {})
