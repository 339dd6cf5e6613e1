"""The sha256 of averages that were measured without being kept: `scores/averages/<recipe>.json`.

Scores are found by the sha256 of weights, which is known only once the weights were made. A note of
it, under the digest of the recipe and of the parents' own sha256, spares making them again to read
scores that stand. A note is a cache: without one the average is made again.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from btm.errors import UserError
from btm.forest.card import Card
from btm.forest.paths import Paths
from btm.system import durable
from btm.system.json_files import read_object

SCHEMA = 1


def known(root: Path, card: Card) -> str:
    """Read the sha256 that the weights of an average with this card have; "" if nobody noted it."""
    file = _file(root, card)
    try:
        return str(read_object(file, schema=int, sha256=str, parents=list)["sha256"])
    except (UserError, OSError):  # none, or a damaged one, which is made anew
        return ""


def note(root: Path, card: Card, sha256: str) -> None:
    """Note the sha256 of the weights of an average with this card."""
    parents = sorted(parent.sha256 for parent in card.parents.values())
    durable.write_json(_file(root, card), {"schema": SCHEMA, "sha256": sha256, "parents": parents})


def notes(root: Path) -> list[Path]:
    """List the files of all notes."""
    return sorted(Paths(root).unwritten.glob("*.json"))


def forget(root: Path, parents: Collection[str]) -> set[str]:
    """Delete the notes of averages with one of the weights `parents`; return the averages' sha256.

    A note that cannot be read is deleted too: nobody can tell what it is of.
    """
    return set(_forgotten(root, frozenset(parents)))


def _forgotten(root: Path, parents: frozenset[str]) -> Iterator[str]:
    for file in notes(root):
        try:
            values = read_object(file, schema=int, sha256=str, parents=list)
        except (UserError, OSError):
            file.unlink(missing_ok=True)
            continue
        if parents & set(values["parents"]):
            file.unlink(missing_ok=True)
            yield values["sha256"]


def _file(root: Path, card: Card) -> Path:
    """Name the note of an average by all that its weights depend on."""
    parents = sorted((name, p.raw, p.sha256) for name, p in card.parents.items())
    recipe = json.dumps([parents, card.recipe], sort_keys=True)
    return Paths(root).unwritten / f"{hashlib.sha256(recipe.encode()).hexdigest()}.json"
