"""How a model whose files were fetched and verified enters the forest.

Nothing that the remote says is believed. A whole model is copied, looked at and tried in a box as
one that is imported, then goes through the gate of received ELMs: what decides is measured here.
Its lineage and its cost are the sender's word. A difference goes the way of `btm import
format=delta` and `delta8`.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from btm.config.schema import Config
from btm.data.tokenizer import recorded_policy
from btm.errors import UserError
from btm.forest import (
    Branch,
    Forest,
    difference,
    ledger,
    model_card,
    require_same_tokenizer,
    seal,
    tombstone,
    trained_on,
)
from btm.forest.card import Card
from btm.forest.paths import ELMS, MOES, ModelFolder
from btm.forest.terms import Terms, descended
from btm.interop import delta, delta8, huggingface, intake, received
from btm.interop.remote.facts import Facts
from btm.interop.remote.manifest import PLACES, Manifest
from btm.models import flops, trial, weights
from btm.report import Reporter
from btm.system import durable, sums
from btm.system.json_files import Json


@dataclass(frozen=True)
class Door:
    """The forest that a model enters, where it comes from, and how it is measured."""

    config: Config
    root: Path
    facts: Facts  # of the remote, for a forest that is planted
    source: str  # the URL of the model
    measure: received.Measure
    reporter: Reporter


def enter(door: Door, manifest: Manifest, folder: Path) -> None:
    """Add a fetched model to the forest; `UserError`, with nothing changed, if it is unfit."""
    if manifest.way != "full":
        return _difference(door, manifest, folder)
    forest = Forest(door.root) if Forest.stands(door.root) else None
    policy = recorded_policy(forest.tokenizer) if forest else door.facts.bos
    alive = door.reporter.alive
    with huggingface.checked(folder, "from", door.root, bos=policy, alive=alive) as model:
        door.reporter.line(f"checked {manifest.home}")
        if forest is None:
            forest = _plant(door, model)
        if manifest.place == ELMS:
            _elm(door, forest, manifest, folder)
        else:
            _derived(door, forest, manifest, folder, model)


def _difference(door: Door, manifest: Manifest, folder: Path) -> None:
    forest = Forest(door.root)
    # name= and domain= are the card's; a domain that the command gives is for other verbs.
    config = replace(door.config, expert=manifest.name, domain=None, forest=str(door.root))
    if manifest.way == "delta":
        delta.import_elm(config, folder, door.measure, door.reporter)
    else:
        delta8.enter(forest, folder, manifest.name, config, door.measure, door.reporter.alive)


def _plant(door: Door, model: huggingface.Checked) -> Forest:
    """Plant a forest for the architecture and tokenizer of a checked model."""
    if model.tokenizer_sha256 != door.facts.tokenizer_sha256:
        raise UserError(
            f"{door.source}: has the tokenizer {model.tokenizer_sha256[:12]}, the remote's "
            f"forest.json says {door.facts.tokenizer_sha256[:12]}: damaged, push it again"
        )
    kept = trial.comes_back(model.model, trial.TOKENS, model.tokenizer.parent, door.source)
    return Forest.create(door.root, kept, model.tokenizer, model.tokenizer_sha256)


def _elm(door: Door, forest: Forest, manifest: Manifest, folder: Path) -> None:
    name, card = manifest.name, manifest.card
    if forest.has_branch(name) and forest.get_branch(name).origin.get("source") == door.source:
        with forest.hold(name) as (left, _):
            durable.remove_folder(left.path)  # left by a pull that was killed
    forest.require_free(name)
    with forest.new_branch(name, _origin(door, card)) as made:
        _take(folder, made, manifest, door.reporter.alive)
        facts = _difference_file(folder, made, manifest)
    trained_on.copy(folder, forest.paths.digests, card)
    result = seal.result(card) | facts
    received.merge(forest, name, card, result, _measurable(door, forest), door.config)


def _origin(door: Door, card: Card) -> Json:
    """Write the origin of the branch, as `Forest.branch` does."""
    return {
        "domains": card.domains,
        "method": card.branch_method,
        "estimator": card.estimator,
        "parents": {name: asdict(parent) for name, parent in card.parents.items()},
        "ancestors": [asdict(spent) for spent in card.ancestors],
        "source": door.source,
        "source_sha256": card.sha256,
    }


def _take(folder: Path, made: Path, manifest: Manifest, alive: Callable[[], None]) -> None:
    """Copy the files of a model that `transformers` reads; `UserError` if they are of other weights
    than the manifest says.
    """
    intake.take(folder, made, alive=alive)
    if (found := weights.sha256(made)) != manifest.sha256:
        raise UserError(
            f"{manifest.home}: its weights are {found[:12]}, its manifest says "
            f"{manifest.sha256[:12]}: damaged, push it again"
        )


def _difference_file(folder: Path, made: Path, manifest: Manifest) -> Json:
    """Take the delta or the adapter of an expert, if it is that of these weights; else its facts
    go.
    """
    file = difference.file_in(folder)
    if file is None:
        return {"delta": {}, "adapter": {}}
    if difference.read(file).sha256 != manifest.sha256:
        raise UserError(f"{manifest.home}: its {file.name} is of other weights: push it again")
    shutil.copyfile(file, made / file.name)
    return {}


def _measurable(door: Door, forest: Forest) -> received.Measure:
    """Measure an ELM here where that means something: one domain, and its own parents at hand."""

    def measure(branch: Branch, beat: Callable[[], None]) -> received.Losses:
        if len(branch.domains) != 1:
            return received.Losses(why="it is no expert of one domain")
        for name, parent in branch.parents.items():
            if name not in forest or forest[name].card.sha256 != parent.sha256:
                return received.Losses(why=f"its parent {name!r} does not stand here")
        return door.measure(branch, beat)

    return measure


def _derived(
    door: Door, forest: Forest, manifest: Manifest, folder: Path, model: huggingface.Checked
) -> None:
    """Publish a derived model, with its sender's card; what can be counted is counted anew."""
    card, alive = manifest.card, door.reporter.alive
    target = forest.root / manifest.place / manifest.name
    kind = PLACES[manifest.place]
    making = tombstone.require_parents(forest.root, kind, manifest.name, card.parents)
    with durable.publish_folder(target) as made, making:
        _take(folder, made, manifest, alive)
        note = f"received from {door.source}: its losses are as the sender measured them"
        card = replace(
            card,
            tokenizer_sha256=forest.identity["tokenizer_sha256"],
            parameters=weights.parameters(made),
            notes=[*card.notes, note],
            sums=True,
            **asdict(flops.Shape.of(model.model)),
        )
        card = ledger.summed(descended(Terms.of_card(card).checked().on(card), forest))
        _require_same(forest, manifest, model)
        durable.write_json(ModelFolder(made).card, card.to_json())
        ModelFolder(made).readme.write_text(model_card.readme(card, kind))
        sums.write(made)
    trained_on.copy(folder, forest.paths.digests, card)


def _require_same(forest: Forest, manifest: Manifest, model: huggingface.Checked) -> None:
    """Raise `UserError` unless a derived model has the forest's tokenizer and, but for a mixture of
    experts, its architecture.
    """
    from btm.models import configs

    if manifest.place == MOES:
        require_same_tokenizer(forest, model.tokenizer_sha256, manifest.home)
        return
    architecture = configs.fingerprint(model.model.config)
    forest.require(architecture, model.tokenizer_sha256, manifest.home)
