"""Tombstones: the record of an ELM that was removed, ``removed/<name>/card.json``.

From the moment its tombstone stands an ELM is no part of the forest, whatever is still to be
deleted. A tombstone keeps the card (provenance, no parameters), why and when it was removed, and
which models had inherited from it. A name with a tombstone is not used again
until it is readmitted: then the tombstone moves to ``removed/<name>~<when>``.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from btm.config.checks import is_name
from btm.errors import UserError, command
from btm.forest.card import Card
from btm.forest.paths import CARD, Paths
from btm.system import durable, sums
from btm.system.json_files import Json, read_object

SCHEMA = 1
BRANCH = "branch"  # the kind of an heir that is in the making


@dataclass(frozen=True)
class Heir:
    """A model that inherited parameters: an ELM, an average or a branch, and its share of them."""

    kind: str
    name: str
    sha256: str
    weight: float | None  # directly, as a parent; None: through others alone
    share: float | None  # through all paths; None: an ELM in between is gone, its weights unknown


@dataclass(frozen=True)
class Tombstone:
    """The record of one removal."""

    card: Card
    removed: str  # UTC, ISO 8601
    reason: str = ""
    because_of: str = ""  # the ELM it descended from, with which it went
    heirs: list[Heir] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the ELM."""
        return self.card.name


def stands(root: Path, name: str) -> bool:
    """Tell whether `name` was removed from the forest at `root`, and not readmitted."""
    return (Paths(root).tombstone(name) / CARD).is_file()


def names(root: Path) -> set[str]:
    """List the names that were removed and not readmitted."""
    return {path.name for path in _folders(root) if is_name(path.name)}


def all_of(root: Path) -> list[Tombstone]:
    """Read every tombstone that is readable, those of readmitted names too."""
    found = []
    for path in _folders(root):
        try:
            found.append(read(path))
        except UserError:
            continue  # btm verify tells of it
    return found


def read(path: Path) -> Tombstone:
    """Read the tombstone in the folder `path`; `UserError` if it is not valid."""
    file = path / CARD
    values = read_object(
        file, schema=int, card=dict, removed=str, reason=str, because_of=str, heirs=list
    )
    if values["schema"] > SCHEMA:
        raise UserError(f"{file}: written by a newer btm (schema {values['schema']})")
    try:
        heirs = [Heir(**heir) for heir in values["heirs"]]
    except TypeError as error:
        raise UserError(f"{file}: not a valid tombstone: {error}") from None
    card = Card.from_json(values["card"], file)
    return Tombstone(card, values["removed"], values["reason"], values["because_of"], heirs)


def publish(root: Path, stone: Tombstone, *, replace: bool = False) -> None:
    """Write a tombstone, in one step; `FileExistsError` if the name has one and `replace` is
    false.
    """
    with durable.publish_folder(Paths(root).tombstone(stone.name), replace=replace) as made:
        values: Json = {"schema": SCHEMA, **asdict(stone), "card": stone.card.to_json()}
        (made / CARD).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        sums.write(made)


def readmit(root: Path, name: str) -> Path:
    """Let `name` be used again; its tombstone stays under another name, which is returned."""
    paths = Paths(root)
    stone = read(paths.tombstone(name))
    when = "".join(c for c in stone.removed if c.isdigit())
    target = paths.readmitted(name, when, stone.card.sha256)
    durable.rename_folder(paths.tombstone(name), target)
    return target


def error(root: Path, name: str) -> UserError:
    """Make the error for a use of the name of a removed ELM."""
    told = ""
    try:
        stone = read(Paths(root).tombstone(name))
        told = f" on {stone.removed[:10]}" + (f" ({stone.reason})" if stone.reason else "")
    except UserError:
        pass  # a damaged tombstone is one all the same
    return UserError(
        f"{name!r} was removed from {root}{told}; to let that name be used again: "
        f"{command('remove', expert=name, forest=root)} --readmit"
    )


def refuse(root: Path, name: str) -> None:
    """Raise `UserError` if `name` was removed and not readmitted."""
    if stands(root, name):
        raise error(root, name)


def refuse_parents(
    root: Path, kind: str, name: str, parents: Collection[str], sha256: str = ""
) -> None:
    """Raise `UserError` if an ELM that `name` was made of has been removed since.

    Not if its tombstone names that very model (of this `kind` and these weights; a branch has
    none): then whoever removed the parent was told of it, and let it be.
    """
    for parent in parents:
        if stands(root, parent) and not _names(root, parent, (kind, name, sha256)):
            raise UserError(
                f"{parent!r} was removed from {root} while {name!r} was made of it: nothing is "
                f"published; make {name!r} again of ELMs that stand"
            )


@contextmanager
def require_parents(root: Path, kind: str, name: str, parents: Collection[str]) -> Iterator[None]:
    """Run a block that makes `name` of its `parents`, and refuse what it made if one was removed.

    What fails in the block for want of a parent that is gone is told as that.
    """
    try:
        yield
    except (UserError, OSError):
        refuse_parents(root, kind, name, parents)
        raise
    refuse_parents(root, kind, name, parents)


def _names(root: Path, removed: str, heir: tuple[str, str, str]) -> bool:
    """Tell whether the tombstone of an ELM names an heir (kind, name, sha256)."""
    try:
        stone = read(Paths(root).tombstone(removed))
    except UserError:
        return False  # damaged: btm verify tells of it
    return heir in {(known.kind, known.name, known.sha256) for known in stone.heirs}


def _folders(root: Path) -> list[Path]:
    try:
        found = sorted(Paths(root).removed.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in found if not path.name.startswith(".") and (path / CARD).is_file()]
