"""Removal of models: weights are deleted, of an ELM a tombstone stays, and heirs are named.

The tombstone comes first, by one rename; from then on the ELM is no part of the forest. Then
everything is moved out of its place into ``removed/<name>/deleting/`` and deleted there. So a kill
at any instruction leaves either the whole ELM or a tombstone and something that the same command
goes on to delete.
"""

import dataclasses
import json
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from btm.config.schema import Config
from btm.errors import UserError, command, unknown
from btm.forest import readers, tombstone, trained_on, unwritten
from btm.forest.card import Card
from btm.forest.forest import Forest
from btm.forest.index import PLACES, kind_of
from btm.forest.lineage import BRANCH, ELM, Key, Lineage
from btm.forest.paths import (
    CARD,
    ELMS,
    MOES,
    STUDENTS,
    ModelFolder,
    Paths,
    in_making,
    places_of,
)
from btm.forest.tombstone import Heir, Tombstone
from btm.models import weights
from btm.system import durable, lease
from btm.system.json_files import read_object


@dataclass(frozen=True)
class Consequences:
    """What the removal of an ELM means for the rest of the forest."""

    card: Card
    heirs: list[Heir]  # parents before children
    same_data: list[str]  # ELMs that were themselves trained on a shard it was trained on
    evals: list[Path]  # evaluations that measured it: numbers, which stay
    copies: list[Path]  # the same weights in forests beside this one
    linked: bool  # whether its weight files have other names on this disk (hard links)


def consequences(forest: Forest, name: str) -> Consequences:
    """Find what the removal of an ELM affects; `UserError` if there never was an ELM `name`."""
    card = _card_of(forest, name)
    lineage = Lineage.of(forest.root)
    key = Key(ELM, name, card.sha256)
    data = set(card.data.values())
    same = sorted(
        n.key.name
        for n in lineage.nodes.values()
        if n.key != key and n.state == "there" and data & n.data
    )
    return Consequences(
        card,
        heirs(lineage, key),
        same,
        _evals(forest.root, card.sha256),
        _copies(forest.root, name, card.sha256),
        any(file.stat().st_nlink > 1 for file in forest.paths.elm(name).weights()),
    )


def heirs(lineage: Lineage, key: Key) -> list[Heir]:
    """List the heirs of `key` that stand in the forest, parents before children."""
    if key not in lineage.nodes:
        return []
    found = lineage.descendants(key)
    return [
        Heir(*other, lineage.nodes[other].parents.get(key), share)
        for other, share in found.items()
        if lineage.nodes[other].state == "there"
    ]


def remove(forest: Forest, name: str, *, reason: str = "", because_of: str = "") -> Tombstone:
    """Remove one ELM, or finish to remove it; return its tombstone.

    Raises `UserError` if there never was such an ELM, or a process works on a branch of its name.
    """
    require_idle(forest, [name])
    _require_no_mixture_at_work(forest, name)
    if not tombstone.stands(forest.root, name):
        found = consequences(forest, name)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stone = Tombstone(found.card, now, reason, because_of, found.heirs)
        with suppress(FileExistsError):  # another process removes it too
            tombstone.publish(forest.root, stone)
            _name_late_heirs(forest, stone)
    stone = tombstone.read(forest.paths.tombstone(name))
    bin = forest.paths.bin(name)
    empty(bin)
    discard(bin, forest.paths.elm(name).path)
    discard_branch(forest, bin, name)
    for home in _mixtures_in_making(forest, name):
        # Nobody could publish it any more, and it holds the ELM's own tensors.
        discard(bin, lease.take(home).path)
    discard_derived(forest.root, [stone.card.sha256])
    for file in trained_on.not_needed(forest):
        file.unlink(missing_ok=True)
    return stone


def _mixtures_in_making(forest: Forest, name: str) -> list[Path]:
    """List the folders at rest of half-made mixtures of experts that `name` takes part in."""
    found = []
    for home in forest.paths.in_making(MOES):
        current = lease.find(home)
        with suppress(UserError):
            if (
                current
                and name in read_object(ModelFolder(current).making, parents=dict)["parents"]
            ):
                found.append(home)
    return found


def _require_no_mixture_at_work(forest: Forest, name: str) -> None:
    """Raise `UserError` if a process that lives trains a mixture of experts with `name` in it."""
    for home in _mixtures_in_making(forest, name):
        if lease.held(home):
            moe = home.name.removeprefix(".")
            raise UserError(f"moe={moe} is trained with {name!r} in it: stop that, or wait")


def _name_late_heirs(forest: Forest, stone: Tombstone) -> None:
    """Put heirs on a tombstone that were published after its heirs were looked for.

    Whatever is published from now on sees the tombstone, and is taken back (`Forest.new_branch`).
    """
    known = {(heir.kind, heir.name, heir.sha256) for heir in stone.heirs}
    late = [
        heir
        for heir in consequences(forest, stone.name).heirs
        if (heir.kind, heir.name, heir.sha256) not in known
    ]
    if late:
        new = dataclasses.replace(stone, heirs=[*stone.heirs, *late])
        tombstone.publish(forest.root, new, replace=True)


def remove_with_descendants(forest: Forest, name: str, *, reason: str = "") -> list[Heir]:
    """Remove an ELM and whatever inherited from it; return what went with it."""
    found = consequences(forest, name)
    require_idle(forest, [name, *(heir.name for heir in found.heirs)])
    remove(forest, name, reason=reason)
    for heir in found.heirs:
        if heir.kind == ELM:
            remove(forest, heir.name, reason=reason, because_of=name)
        else:
            discard_heir(forest, forest.paths.bin(name), heir)
    return found.heirs


def check_derived(config: Config, called: str, flags: Collection[str]) -> None:
    """Raise `UserError` for what makes sense for an ELM alone where the derived model `called` is
    to go.
    """
    wrong = [flag for flag in ("--with-descendants", "--rederive", "--readmit") if flag in flags]
    wrong += ["remove.reason"] if config.remove.reason else []
    wrong += [f"expert={config.expert}"] if config.expert is not None else []
    if wrong:
        raise UserError(
            f"{called} leaves no tombstone and has no heirs, as it is no ELM: "
            f"leave out {', '.join(wrong)}"
        )


def remove_derived(forest: Forest, called: str) -> Path:
    """Delete a derived model, ``averages/NAME``, and the scores of its weights; return where it
    was.

    Nothing descends from it, so no tombstone is left, and its name is free. A student or mixture
    of experts that is still in the making goes too. `UserError` if there is none.
    """
    (place,), name = places_of(called)
    places = {path.name: path for path in (forest.root / place).glob("[!.]*") if path.is_dir()}
    half_made = {
        STUDENTS: forest.paths.branch(in_making(name)),
        MOES: forest.paths.moe_in_making(name),
    }
    if name not in places and place in half_made and lease.find(half_made[place]):
        return _remove_half_made(half_made[place])
    if name not in places:
        raise unknown(kind_of(forest.root / place / name), name, places, str(forest.root))
    sha256 = ""
    with suppress(UserError, OSError):  # a damaged one goes too; gc finds the scores it leaves
        sha256 = Card.read(forest.paths.derived(place, name).card).sha256
    bin = durable.scratch_folder(places[name].parent)  # swept if this process dies here
    with suppress(FileNotFoundError):  # another process removes it too
        durable.rename_folder(places[name], bin / name)
    durable.remove_folder(bin)
    discard_derived(forest.root, [sha256])
    return places[name]


def _remove_half_made(home: Path) -> Path:
    """Delete a model that is not finished, at rest in `home`, and return that.

    `lease.HeldError`, a `UserError`, while a process works on it.
    """
    durable.remove_folder(lease.take(home).path)
    return home


def readmit(forest: Forest, name: str) -> Path:
    """Let the name of a removed ELM be used again; its tombstone stays, and is returned."""
    if not tombstone.stands(forest.root, name):
        raise unknown("removed ELM", name, tombstone.names(forest.root), str(forest.root))
    if forest.paths.elm(name).path.exists() or forest.paths.bin(name).exists():
        first = command("remove", expert=name, forest=forest.root)
        raise UserError(f"the removal of {name!r} is not finished: first {first}")
    return tombstone.readmit(forest.root, name)


def require_idle(forest: Forest, names: Iterable[str]) -> None:
    """Raise `UserError` if a process that lives works on a branch of one of these names."""
    for name in names:
        if lease.held(forest.paths.branch(name)):
            first = command("cancel", expert=name, forest=forest.root)
            raise UserError(f"branch {name!r} is at work: first {first}, or wait for its end")


def discard(bin: Path, folder: Path) -> None:
    """Move a folder into the bin in one step, and delete it there."""
    if not folder.is_dir():
        return
    target = durable.make_folder(bin) / f"{folder.parent.name}-{folder.name}"
    with suppress(FileNotFoundError):  # another process discards it too
        durable.rename_folder(folder, target)
    empty(bin)


def discard_branch(forest: Forest, bin: Path, name: str) -> None:
    """Delete the branch `name`, if there is one, once this process alone may work on it."""
    try:
        held = lease.take(forest.paths.branch(name))
    except FileNotFoundError:
        return
    discard(bin, held.path)


def discard_heir(forest: Forest, bin: Path, heir: Heir) -> None:
    """Delete a model or a branch that inherited, and its scores, without a tombstone of its own."""
    if heir.kind == BRANCH:
        return discard_branch(forest, bin, heir.name)
    discard(bin, forest.root / PLACES[heir.kind] / heir.name)
    discard_derived(forest.root, [heir.sha256])


def discard_derived(root: Path, gone: Iterable[str]) -> None:
    """Delete scores, Fisher information and what ensembles with the weights `gone` predicted,
    unless a model still has them.

    So go the scores of averages of such weights that were measured without being written.
    """
    gone = {sha256 for sha256 in gone if sha256}
    gone |= unwritten.forget(root, gone)
    kept = {key.sha256 for key, node in Lineage.of(root).nodes.items() if node.state == "there"}
    for sha256 in gone - kept:
        for file in Paths(root).scores_of(sha256):
            file.unlink(missing_ok=True)
        for folder in Paths(root).fishers_of(sha256):
            with suppress(FileNotFoundError):
                durable.remove_folder(folder)
    for folder in targets_without(root, kept):
        with suppress(FileNotFoundError):
            durable.remove_folder(folder)


def targets_without(root: Path, kept: Collection[str]) -> list[Path]:
    """List the folders of what ensembles predict of which a member is not among the weights `kept`.

    One whose record cannot be read is listed too: nobody can tell what it is of.
    """
    found = []
    for file in Paths(root).every_targets():
        try:
            elms = read_object(file, elms=dict)["elms"]
        except UserError:
            elms = {"": None}
        if not set(elms.values()) <= set(kept):
            found.append(file.parent)
    return found


def empty(bin: Path) -> None:
    """Delete a bin with all that is in it."""
    while bin.is_dir():  # what another process puts there meanwhile goes too
        with suppress(FileNotFoundError):
            shutil.rmtree(bin)
        durable.sync_folder(bin.parent)


def _card_of(forest: Forest, name: str) -> Card:
    """Read the card of an ELM that stands or was removed; make one of what else is known if it is
    damaged.
    """
    path = forest.paths.elm(name).path
    if tombstone.stands(forest.root, name):
        return tombstone.read(forest.paths.tombstone(name)).card
    try:
        return forest[name].card
    except UserError:
        if name not in forest:
            raise
    return Card(name, [], _identity(path), "", notes=["removed with a card that could not be read"])


def _identity(path: Path) -> str:
    """Compute the sha256 of the weights of an ELM; empty if they cannot be read."""
    with suppress(UserError, OSError):
        return weights.sha256(path)
    return ""


def _evals(root: Path, sha256: str) -> list[Path]:
    found = []
    for file in sorted(Paths(root).evals.glob("*.json")):
        # The results of readers, of benchmarks and of a mix name no ELMs.
        with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            if sha256 in json.loads(file.read_bytes())["elms"].values():
                found.append(file)
    return found


def _copies(root: Path, name: str, sha256: str) -> list[Path]:
    """Find ELMs of this name and these weights in forests beside this one, as baselines have a copy
    of the seed.
    """
    found = []
    for file in sorted(root.resolve().parent.glob(f"*/{ELMS}/{name}/{CARD}")):
        with suppress(UserError, OSError):
            if file.parents[2] != root.resolve() and Card.read(file).sha256 == sha256:
                found.append(file.parent)
    return found


def advice(root: Path, name: str, found: Consequences, mode: str) -> list[str]:
    """Tell the owner of a forest what a removal leaves to be done, in a sentence each."""
    said = []
    if found.heirs and not mode:
        said.append(
            f"They hold parameters that came from {name!r}: --with-descendants removes them, "
            "--rederive makes them "
            "again without it."
        )
    if found.same_data:
        said.append(
            f"Trained on the same text themselves, which no removal of {name!r} undoes: "
            f"{', '.join(found.same_data)}."
        )
    if found.card.data:
        said.append(
            f"The text of {', '.join(sorted(found.card.data))} in data/ is yours; it was not "
            "touched."
        )
    if found.evals:
        said.append(
            "Evaluations that measured it, numbers alone, stay: "
            f"{', '.join(str(f) for f in found.evals)}."
        )
    if standing := readers.standing_on(root, found.card.sha256):
        said.append(
            f"Readers that stand on it answer no more until they are trained again: "
            f"{', '.join(standing)} (btm read train)."
        )
    if found.copies:
        said.append(
            f"The same weights stand in other forests: {', '.join(str(p) for p in found.copies)}."
        )
    elif found.linked:
        said.append(
            "Its weight files have further names on this disk (hard links), which this forest "
            "does not know."
        )
    return said
