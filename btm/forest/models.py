"""The models that run alone: ELMs, what is derived from them (averages, students, mixtures of
experts), and Hugging Face folders with the forest's tokenizer.

Nothing here loads a model. A folder from outside has its JSON, its weights' headers and its
tokenizer looked at; who loads it has it checked first as an import is (btm/steps/beside.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from btm.config.checks import is_name
from btm.config.schema import Config
from btm.errors import UserError, unknown
from btm.forest import tombstone
from btm.forest.card import Card
from btm.forest.forest import Forest
from btm.forest.paths import (
    AVERAGES,
    CARD,
    DERIVED,
    ELMS,
    MOES,
    STUDENTS,
    ModelFolder,
    places_of,
)
from btm.models import causal_lm, weights

Kind = Literal["ELM", "average", "student", "MoE", "folder", "remote"]
_KINDS: dict[str, Kind] = {AVERAGES: "average", STUDENTS: "student", MOES: "MoE"}


@dataclass(frozen=True)
class Model:
    """One language model: what it is called, where it lies, and the sha256 of its weights."""

    name: str  # as `find_model` finds it again from the same forest
    path: Path
    sha256: str  # of the weights, as cards and the score cache know them
    kind: Kind
    card: Card | None  # None for a folder whose card, if any, is not that of its weights


def find_model(forest: Forest, name_or_dir: str) -> Model:
    """Return the model that a user named, as seen from `forest`.

    An ELM's name, a derived model's (``averages/NAME`` where an ELM has the same),
    ``path/to/forest:NAME`` for one of another forest, or a Hugging Face model folder. Raises
    `UserError` if there is none, or if it has another tokenizer than the forest, pickled weights,
    or code of its own.
    """
    own = _find_own(forest, name_or_dir)
    if own is not None:
        return own
    folder = Path(name_or_dir)
    if folder.is_dir():
        return _folder(forest, folder, name_or_dir)
    root, colon, name = name_or_dir.rpartition(":")
    if colon and Forest.stands(root):
        return _foreign(forest, Forest(root), name)
    if "/" in name_or_dir and len(places_of(name_or_dir)[0]) > 1:
        raise UserError(
            f"{name_or_dir}: no such model folder, and no FOREST:NAME; have in {forest.root}: "
            + (", ".join(_names(forest)) or "none")
        )
    raise _unknown(forest, name_or_dir)


def own_model(forest: Forest, name: str) -> Model:
    """Return the forest's own ELM, or else its derived model, of that name; ``averages/NAME`` is an
    average.

    Raises `UserError` if there is none, or if a derived model is damaged.
    """
    found = _find_own(forest, name)
    if found is None:
        raise _unknown(forest, name)
    return found


def _unknown(forest: Forest, name: str) -> UserError:
    """Make the error for a name that no model of the forest has; it says if one was removed."""
    places, bare = places_of(name)
    if len(places) == 1:
        kind, have = _KINDS[places[0]], [path.name for path in _folders(forest, places)]
        return unknown(kind, bare, have, str(forest.root))
    if is_name(name):
        tombstone.refuse(forest.root, name)
    return unknown("model", name, _names(forest), str(forest.root))


def derived_of(config: Config) -> str | None:
    """Read which derived model average=, student= or moe= names, as ``averages/NAME``; None where
    none of them is given.

    `UserError` if several are.
    """
    named = {AVERAGES: config.average.name, STUDENTS: config.distil.name, MOES: config.moe.name}
    found = [f"{place}/{name}" for place, name in named.items() if name is not None]
    if len(found) > 1:
        raise UserError(f"{' and '.join(found)}: one model is wanted; leave out all but one")
    return found[0] if found else None


def names_of_derived(forest: Forest) -> list[str]:
    """List the names by which the forest's derived models are found, whole or not.

    That is the name alone where no ELM, and no derived model before it, has it.
    """
    taken, found = set(forest.names()), []
    for path in _folders(forest):
        found.append(f"{path.parent.name}/{path.name}" if path.name in taken else path.name)
        taken.add(path.name)
    return found


def derived(forest: Forest, told: Callable[[str], None] = lambda text: None) -> list[Model]:
    """List the forest's averages, students and mixtures of experts, by kind and name.

    Each is called as `find_model` finds it: by its name alone where no other model has that. `told`
    is called with a line for each that is damaged or unfinished.
    """
    found = []
    for path, called in zip(_folders(forest), names_of_derived(forest), strict=True):
        try:
            found.append(_derived(path, called))
        except UserError as error:
            told(f"{_KINDS[path.parent.name]} {path.name!r} is left out: {error}")
    return found


def _find_own(forest: Forest, name: str) -> Model | None:
    """Find the ELM, or else the derived model, of that name; None if there is none."""
    places, bare = places_of(name)
    if ELMS in places and name in forest:
        elm = forest[name]
        return Model(name, elm.path, elm.card.sha256, "ELM", elm.card)
    return next((_derived(p, name) for p in _folders(forest, places) if p.name == bare), None)


def _folders(forest: Forest, places: tuple[str, ...] = DERIVED) -> list[Path]:
    """List the folders of derived models, in the order of `places`, then by name."""
    homes = [forest.root / place for place in places if place in DERIVED]
    return [
        path
        for home in homes
        if home.is_dir()
        for path in sorted(home.iterdir())
        if is_name(path.name) and path.is_dir()
    ]


def _derived(path: Path, called: str) -> Model:
    """Open a derived model; `UserError` if its card or the headers of its weights are damaged."""
    folder = ModelFolder(path)
    if not folder.card.exists():
        raise UserError(f"{path}: no {CARD}: it was never finished; delete it, and make it again")
    card = Card.read(folder.card)
    causal_lm.read_config(folder.config)
    weights.tensors(path)
    return Model(called, path, card.sha256, _KINDS[path.parent.name], card)


def _foreign(forest: Forest, other: Forest, name: str) -> Model:
    """Open a model of another forest, under the name FOREST:NAME."""
    found = _find_own(other, name)
    if found is None:
        raise unknown("model", name, _names(other), str(other.root))
    require_same_tokenizer(forest, other.identity["tokenizer_sha256"], str(other.root))
    return Model(f"{other.root}:{name}", found.path, found.sha256, found.kind, found.card)


def _folder(forest: Forest, folder: Path, called: str) -> Model:
    """Open a Hugging Face model folder, after all checks that need no loading."""
    from btm.data.tokenizer import begins_with_bos, tokenizer_sha256

    if Forest.stands(folder):
        have = ", ".join(f"{folder}:{name}" for name in _names(Forest(folder))) or "no model"
        raise UserError(f"{called}: a forest, not a model; it holds {have}")
    causal_lm.read_config(ModelFolder(folder).config)
    weights.tensors(folder)
    # Whether it puts a BOS before each text is seen when it is loaded, by the checks of an import.
    found = tokenizer_sha256(folder, begins_with_bos(forest.tokenizer))
    require_same_tokenizer(forest, found, called)
    sha256 = weights.sha256(folder)
    return Model(called.rstrip("/"), folder, sha256, "folder", _card_of(folder, sha256))


def _card_of(folder: Path, sha256: str) -> Card | None:
    """Read the card beside weights; None unless it is valid and names their sha256."""
    try:
        card = Card.read(ModelFolder(folder).card)
    except UserError:
        return None
    return card if card.sha256 == sha256 else None


def require_same_tokenizer(forest: Forest, tokenizer_sha256: str, what: str) -> None:
    """Raise `UserError` unless `what` has the forest's tokenizer: else losses per token are not
    comparable.
    """
    from btm.data.tokenizer import other_beginning

    ours = forest.identity["tokenizer_sha256"]
    if why := other_beginning(tokenizer_sha256, ours):
        raise UserError(
            f"{what} has {why} {forest.root}: wanted a model that was trained on texts that "
            "begin alike"
        )
    if tokenizer_sha256 != ours:
        raise UserError(
            f"{what} has another tokenizer than the forest {forest.root} ({tokenizer_sha256[:12]} "
            f"against {ours[:12]}): wanted a model over the same tokens, with or without a BOS "
            "before each document"
        )


def _names(forest: Forest) -> list[str]:
    """List every name by which the forest's own models are found."""
    return [*sorted(forest.names()), *names_of_derived(forest)]
