"""Verify that a forest is as it was sealed; every finding comes with its remedy.

Without `full`, small files are read whole, and of weight files the header, which shows a
truncation. With `full`, every byte is read: an ELM's SHA256SUMS names every file of its folder, so
nothing can change, vanish or appear unseen.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from btm.config.checks import is_name
from btm.config.choices import BRANCH_METHODS
from btm.errors import UserError, first_of, unknown
from btm.forest import index, settings, tombstone, trained_on
from btm.forest.card import Card
from btm.forest.paths import (
    AVERAGES,
    BIN,
    CARD,
    DERIVED,
    ELMS,
    FACTS,
    MOES,
    PLAN,
    STUDENTS,
    TOKENIZER,
    TRAINED_ON,
    ModelFolder,
    Paths,
    ReaderFolder,
    name_of_removed,
    places_of,
)
from btm.forest.readers import ReaderCard
from btm.models import causal_lm, weights
from btm.system import sums
from btm.system.json_files import read_object

SMALL = 1 << 16  # bytes; a smaller file is always read whole
_GROW = (
    "restore it from a copy, or remove it (btm remove expert=NAME --readmit after it) and grow it "
    "again"
)
_AGAIN = {
    AVERAGES: "btm remove average=NAME, and average again: btm average average.name=NAME",
    STUDENTS: "btm remove student=NAME, and distil again: btm distil student=NAME",
    MOES: "btm remove moe=NAME, and make it again: btm moe moe.name=NAME",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; a note is worth knowing, and no damage."""

    what: str  # the folder or file, within the forest
    problem: str
    remedy: str
    note: bool = False


@dataclass
class Look:
    """What is looked at, and how closely."""

    root: Path
    full: bool
    told: Callable[[int], None] = lambda read: None  # how many more bytes were read

    @cached_property
    def standing(self) -> dict[str, str]:
        """{name: sha256 that its card names} of the ELMs there are; empty where the card cannot be
        read.
        """
        return {
            entry.name: entry.sha256
            for entry in index.entries(self.root)
            if entry.kind == index.ELM
        }

    @cached_property
    def removed(self) -> set[tuple[str, str]]:
        """(name, sha256) of the ELMs that were removed."""
        return {(stone.name, stone.card.sha256) for stone in tombstone.all_of(self.root)}

    def wants(self, file: Path) -> bool:
        """Tell whether a file is read whole."""
        return self.full or file.lstat().st_size <= SMALL


def verify(
    root: Path,
    *,
    full: bool = False,
    only: str | None = None,
    told: Callable[[int], None] = lambda read: None,
) -> list[Finding]:
    """Check the forest at `root`, or one model in it, and return every finding.

    `only` names an ELM, or else a derived model; ``averages/NAME`` an average alone.
    """
    look = Look(root, full, told)
    if only is not None:
        return list(_model(look, folder_of(root, only)))
    found = list(_own_files(look))
    for place in (ELMS, *DERIVED):
        for path in _inside(root / place):
            found += (
                _model(look, path)
                if is_name(path.name) and path.is_dir()
                else [_stranger(root, path)]
            )
    for path in _inside(Paths(root).removed):
        found += _tombstone(look, path)
    for reader in Paths(root).readers():
        found += _reader(look, reader)
    return [*found, *_digests(look)]


def size(root: Path, only: str | None = None) -> int:
    """Count the bytes that a full verification reads."""
    paths = Paths(root)
    whole = (
        *(paths.tokenizer, paths.elms, *(root / place for place in DERIVED), paths.digests),
        *(reader.path for reader in paths.readers()),
    )
    places = [folder_of(root, only)] if only else whole
    return sum(p.lstat().st_size for place in places for p in place.rglob("*") if p.is_file())


def folder_of(root: Path, name: str) -> Path:
    """Find the folder of a model, damaged or not; the `UserError` for none lists what there is."""
    places, bare = places_of(name)
    folders = [p for at in places for p in _inside(root / at) if is_name(p.name) and p.is_dir()]
    for folder in folders:  # ELMs first
        if folder.name == bare:
            return folder
    kind = index.kind_of(root / places[0] / bare) if len(places) == 1 else "model"
    raise unknown(kind, bare, {folder.name for folder in folders}, str(root))


def _own_files(look: Look) -> Iterator[Finding]:
    """Check forest.json, the records of settings and suites, and the tokenizer."""
    root, file = look.root, Paths(look.root).facts
    wanted = {"schema": int, "architecture": str, "model_type": str, "tokenizer_sha256": str}
    copy = (
        "restore it from a copy; what it says of tokenizer and architecture stands on every card "
        "too"
    )
    try:
        facts = read_object(file, **wanted)
        as_written = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        old = facts.keys() == wanted.keys()  # from before it had a check
        if file.read_bytes().decode() != as_written or not (old or sums.checked(facts) == facts):
            yield Finding(FACTS, "not as btm wrote it: bytes changed", copy)
    except (UserError, UnicodeDecodeError) as error:
        yield Finding(FACTS, str(error), copy)
        facts = {}
    for recorded in settings.files(root):
        try:
            settings.check_file(recorded)
        except UserError as error:
            remedy = "delete it; btm run with the words of the forest records them again"
            yield Finding(_within(look, recorded), str(error), remedy)
    restore = "copy the tokenizer files of any ELM of this forest there"
    folder = Paths(root).tokenizer
    if not folder.is_dir():
        yield Finding(TOKENIZER, "missing", restore)
        return
    if (folder / sums.NAME).exists() or "check" in facts:
        yield from _differences(look, folder, restore)
    yield from _same_tokenizer(look, folder, facts.get("tokenizer_sha256"), restore)


def _same_tokenizer(look: Look, folder: Path, wanted: str | None, remedy: str) -> Iterator[Finding]:
    from btm.data.tokenizer import tokenizer_sha256

    try:
        found = tokenizer_sha256(folder)
    except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        yield Finding(_within(look, folder), f"its tokenizer is not readable: {error}", remedy)
        return
    if wanted is not None and found != wanted:
        yield Finding(
            _within(look, folder),
            f"its tokenizer is {found[:12]}, the forest's {wanted[:12]}",
            remedy,
        )


def _model(look: Look, path: Path) -> Iterator[Finding]:
    """Check an ELM or a derived model."""
    what, remedy = _within(look, path), _GROW.replace("NAME", path.name)
    if path.parent.name in DERIVED:
        remedy = _AGAIN[path.parent.name].replace("NAME", path.name)
    elif tombstone.stands(look.root, path.name):
        yield Finding(what, "removed, and still there", f"btm remove expert={path.name} goes on")
        return
    card = None
    try:
        card = Card.read(ModelFolder(path).card)
        yield from _card(look, path, card, remedy)
    except (UserError, OSError) as error:
        yield Finding(f"{what}/{CARD}", str(error), remedy)
    try:
        causal_lm.read_config(ModelFolder(path).config)
        weights.tensors(path)
    except (UserError, OSError) as error:
        yield Finding(what, str(error), remedy)
    if (path / sums.NAME).exists() or (card is not None and card.sums):
        yield from _differences(look, path, remedy)
        if card is not None:
            yield from _named(look, path, card, remedy)
    elif card is not None:
        yield from _unlisted(look, path, card, remedy)


def _differences(look: Look, folder: Path, remedy: str) -> Iterator[Finding]:
    """Compare a folder with its SHA256SUMS."""
    what = _within(look, folder)
    try:
        for name, problem in sums.differences(folder, look.wants, look.told).items():
            yield Finding(f"{what}/{name}", problem, remedy)
    except UserError as error:
        yield Finding(f"{what}/{sums.NAME}", str(error), remedy)


def _named(look: Look, path: Path, card: Card, remedy: str) -> Iterator[Finding]:
    """Check that the card and SHA256SUMS name the same weights."""
    try:
        listed = {
            name: digest for name, digest in sums.read(path).items() if name in _weight_files(path)
        }
    except UserError:
        return  # told already
    if listed and weights.identity(listed) != card.sha256:
        yield Finding(_within(look, path), f"its card names other weights than {sums.NAME}", remedy)


def _weight_files(path: Path) -> set[str]:
    try:
        return {file.name for file in weights.files(path)}
    except UserError:
        return set()


def _unlisted(look: Look, path: Path, card: Card, remedy: str) -> Iterator[Finding]:
    """Check the weights of a model that was made before there was a SHA256SUMS."""
    what = _within(look, path)
    yield Finding(
        what, f"made before {sums.NAME}: only its weights can be checked", "none needed", note=True
    )
    if not look.full:
        return
    try:
        found = weights.sha256(path)
    except (UserError, OSError):
        return  # told already
    if found != card.sha256:
        yield Finding(what, "its weights are not those that its card names", remedy)


def _card(look: Look, path: Path, card: Card, remedy: str) -> Iterator[Finding]:
    """Check that a card contradicts neither itself nor the forest."""
    what = f"{_within(look, path)}/{CARD}"
    if card.name != path.name:
        yield Finding(what, f"it is the card of {card.name!r}", remedy)
    facts = Paths(look.root).facts
    try:
        ours = read_object(facts, tokenizer_sha256=str)["tokenizer_sha256"]
    except UserError:
        ours = card.tokenizer_sha256
    if card.tokenizer_sha256 != ours:
        yield Finding(what, "another tokenizer than the forest's", remedy)
    if card.parents and card.branch_method in (*BRANCH_METHODS, "weights"):
        total = sum(parent.weight for parent in card.parents.values())
        if not abs(total - 1) < 1e-6:
            yield Finding(what, f"the weights of its parents add up to {total:g}, not to 1", remedy)
    spent = {(item.name, item.sha256) for item in card.ancestors}
    for name, parent in card.parents.items():
        if card.ancestors and (name, parent.sha256) not in spent:
            yield Finding(what, f"its parent {name!r} is not among its ancestors", remedy)
        if problem := _parent(look, name, parent.sha256):
            yield Finding(
                what, problem, "restore that ELM from a copy; its descendants are not affected"
            )


def _parent(look: Look, name: str, sha256: str) -> str:
    """Say what is wrong with a parent that a card names; an empty string if nothing is."""
    if (name, sha256) in look.removed:
        return ""
    there = look.standing.get(name)
    if there is None:
        return f"its parent {name!r} is neither there nor removed by btm"
    known = not there or there == sha256
    return (
        "" if known else f"its parent {name!r} ({sha256[:12]}) is not the one that stands there now"
    )


def _reader(look: Look, folder: ReaderFolder) -> Iterator[Finding]:
    """Check a trained reader, and that the ELMs that it stands on are there."""
    what, remedy = _within(look, folder.path), f"btm read train reader.name={folder.path.name}"
    yield from _differences(look, folder.path, f"train it again: {remedy}")
    try:
        card = ReaderCard.read(folder.card)
    except UserError as error:
        yield Finding(what, str(error), remedy)
        return
    for name, sha256 in card.models.items():
        gone = (name, sha256) in look.removed or look.standing.get(name, sha256) != sha256
        if gone:
            yield Finding(what, f"{name!r}, which it stands on, is gone", remedy, note=True)


def _tombstone(look: Look, path: Path) -> Iterator[Finding]:
    what = _within(look, path)
    name = name_of_removed(path)
    if not (path / CARD).is_file():
        yield Finding(
            what,
            f"no tombstone: its {CARD} is missing",
            "restore it from a copy, or delete the folder",
        )
        return
    try:
        tombstone.read(path)
        wrong = sums.differences(path)
    except UserError as error:
        yield Finding(f"{what}", str(error), "restore it from a copy")
        return
    for file, problem in wrong.items():
        if not file.startswith(f"{BIN}/") and file != PLAN:
            yield Finding(f"{what}/{file}", problem, "restore it from a copy")
    if (path / BIN).exists():
        yield Finding(
            f"{what}/{BIN}", "the removal is not finished", f"btm remove expert={name} goes on"
        )


def _digests(look: Look) -> Iterator[Finding]:
    """Check the digests of documents that ELMs were trained on, and that none are missing."""
    paths = Paths(look.root)
    for file in paths.trained_ons():
        if look.wants(file) and (problem := trained_on.damage(file)):
            remedy = "restore it from a copy, or delete it: btm prepare forest=DIR makes it again"
            yield Finding(_within(look, file), problem, remedy)
    kept = {file.stem for file in paths.trained_ons()}
    names = [
        entry.name
        for entry, descent in index.descents(look.root)
        if not kept.issuperset(descent.data)
    ]
    if names:
        yield Finding(
            TRAINED_ON,
            f"the documents that {first_of(names)} learnt from are not recorded",
            "btm prepare forest=DIR records them while the suite still has that text",
            note=True,
        )


def _stranger(root: Path, path: Path) -> Finding:
    return Finding(str(path.relative_to(root)), "not a file of btm's", "move it away", note=True)


def _inside(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def _within(look: Look, path: Path) -> str:
    return path.relative_to(look.root).as_posix()
