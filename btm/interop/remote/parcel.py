"""A parcel: what travels of a model, as files on this machine and the manifest of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from btm.errors import UserError
from btm.forest import ELM, Forest, difference
from btm.forest.card import Card
from btm.forest.paths import CARD, ELMS, digests_name
from btm.interop import delta, delta8
from btm.interop.remote.manifest import Content, Manifest
from btm.models import files, tokenizer_files, weights
from btm.system import durable, sums
from btm.system.outside import Folder


@dataclass(frozen=True)
class Parcel:
    """Files to be sent, {name at the remote: file here}, and what the manifest says of them."""

    manifest: Manifest
    files: dict[str, Path]


def way_of(elm: ELM, asked: str, exact: Mapping[str, str]) -> tuple[str, str]:
    """Choose how an ELM travels, and say why it is not as `asked`; an empty reason if it is.

    `exact` are the ELMs that a receiver gets from the remote: {name: sha256 of their weights}.
    """
    if asked == "full":
        return "full", ""
    if not elm.card.parents:
        return "full", "it has no parents that it could be a difference from"
    if asked == "delta" and difference.file_in(elm.path) is None:
        why = "it was not trained as a sparse expert (trainer.delta_density), nor by an adapter"
        return "full", why
    for name, parent in elm.card.parents.items():
        if exact.get(name) != parent.sha256:
            return "full", f"its parent {name!r} does not stand there with these very weights"
    return asked, ""


@contextmanager
def packed(
    forest: Forest,
    model: ELM,
    way: str,
    block: int,
    alive: Callable[[], None],
) -> Iterator[Parcel]:
    """Yield the parcel of an ELM or average; the files of a difference are gone after the block.

    Whole models are sent from where they stand. Raises `UserError` if the model is damaged.
    """
    if way == "full":
        yield _whole(forest, model)
        return
    scratch = durable.scratch_folder(forest.root)
    try:
        target = scratch / way
        if way == "delta":
            delta.export(model.path, target)
            sha256 = model.card.sha256
        else:
            delta8.export(forest, model.name, target, block, alive)
            sha256 = delta8.Delta.read(target).sha256
        found = {name: target / name for name in [*sums.names(target), sums.NAME]}
        yield _parcel(ELMS, way, sha256, model.card, found, sums.read(target))
    finally:
        durable.remove_folder(scratch)


def _whole(forest: Forest, model: ELM) -> Parcel:
    """Make the parcel of a whole model: weights, configs, tokenizer, card, README, digests."""
    path, card = model.path, model.card
    names = [file.name for file in weights.files(path)] + tokenizer_files.names(Folder(path))
    beside = [files.INDEX, files.CONFIG, "generation_config.json", CARD, files.README]
    beside += difference.FILES
    names += [name for name in beside if (path / name).is_file()]
    found = {name: path / name for name in names} | _digests(forest, card)
    known = sums.read(path) if (path / sums.NAME).is_file() else {}
    digests = {file.name: known.get(file.name, "") for file in weights.files(path)}
    if known and weights.identity(digests) != card.sha256:
        raise UserError(
            f"{path}: its card names other weights than {sums.NAME}: damaged, restore it from a "
            "copy"
        )
    return _parcel(path.parent.name, "full", card.sha256, card, found, known)


def _digests(forest: Forest, card: Card) -> dict[str, Path]:
    """Find the digests of the documents that a model was trained on, as far as they were kept."""
    kept = ((digests_name(s), forest.paths.trained_on(s)) for s in set(card.data.values()))
    return {name: file for name, file in kept if file.is_file()}


def _parcel(
    place: str,
    way: str,
    sha256: str,
    card: Card,
    found: Mapping[str, Path],
    known: Mapping[str, str],
) -> Parcel:
    """Describe files; sums that are not `known` are computed."""
    described = {
        name: Content(known.get(name) or sums.file_sha256(file), file.stat().st_size)
        for name, file in found.items()
    }
    return Parcel(Manifest(place, way, sha256, described, card), dict(found))


def parents_first(models: Iterable[ELM]) -> list[ELM]:
    """Sort ELMs so that each comes after all it descends from."""
    return sorted(models, key=lambda model: (len(model.card.ancestors), model.name))
