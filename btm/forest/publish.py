"""Averages of a forest's ELMs on disk: published whole in ``averages/``, with settings and a card.

How parameters are combined is in btm/models/average/; which ELMs are averaged and with what weights
is the step's to find (btm/steps/averages.py).
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm.config import identity
from btm.config.checks import check_name
from btm.config.identity import Difference
from btm.data import ends
from btm.errors import UserError
from btm.forest import index, ledger, model_card, tombstone
from btm.forest.card import Candidate, Card, Measured, Parent
from btm.forest.forest import Forest
from btm.forest.paths import ModelFolder
from btm.forest.terms import descended
from btm.models import average as averaging
from btm.models import causal_lm, weights
from btm.models.average import Settings, normalise
from btm.system import durable, sums
from btm.system.json_files import Json

SCALE = "average.scale"  # as a setting on the card of an average: what was asked for
_USUAL = asdict(Settings()) | {"importance": []}


def average(
    forest: Forest,
    name: str,
    parents: Mapping[str, float],
    *,
    method: str = "weights",
    estimator: str = "",
    candidates: Sequence[Candidate] = (),
    settings: Settings = Settings(),  # noqa: B008 - it is frozen
    scale: float | str | None = None,
    alive: Callable[[], None] = lambda: None,
    say: Callable[[str], object] = lambda line: None,
    measure: Callable[[Path, Card], dict[str, Measured]] = lambda folder, card: {},
) -> Path:
    """Publish the average of `parents` {ELM: weight} in ``averages/`` and return its folder.

    `method` says where the weights come from, `estimator` in words how they and the scale were
    found, `candidates` what else was tried, and `scale` what was asked for: a number, or fit.
    `measure` gets the unpublished folder and returns losses by domain, which go on the card. If
    `name` is already the same average of the same weights, nothing is done; another is replaced,
    and `say` gets a line that names each difference. Raises `UserError` for a name that is not
    valid, an ELM that is not there, or one that is removed meanwhile.
    """
    check_name(name, "average.name")
    target = forest.paths.average(name).path
    folders = {forest[parent].path: weight for parent, weight in parents.items() if weight != 0}
    card = _card(forest, name, parents, method, settings)
    card = replace(card, estimator=estimator, candidates=list(candidates))
    card = replace(card, settings={} if scale is None else {SCALE: scale})
    standing, found = ModelFolder(target).card, list[Difference]()
    if standing.exists():
        found = differences(Card.read(standing), card)
        if not found:
            return target

    def write(folder: Path) -> dict[str, str]:
        digests = averaging.average(folders, folder, alive, settings)
        causal_lm.copy_files(min(folders), folder)  # of the one whose dtypes the weights have
        ends.declare(folder, folders)
        if settings.dtype:
            causal_lm.declare_dtype(ModelFolder(folder).config, settings.dtype)
        if found:  # and what is asked for can be made
            say(f"{target} is of other settings: {'; '.join(map(str, found))}: it is made anew")
        return digests

    return derived(forest, index.AVERAGE, card, write, measure)


def derived(
    forest: Forest,
    kind: str,
    card: Card,
    write: Callable[[Path], dict[str, str]],
    measure: Callable[[Path, Card], dict[str, Measured]] = lambda folder, card: {},
) -> Path:
    """Publish a derived model of a `kind` under the name on its card, in place of one that stands
    there; return its folder.

    `write` puts the model into an empty folder and returns the sha256 of each weight file; the
    card's totals and losses are filled in. Raises `UserError` if a parent is removed meanwhile.
    """
    name = card.name
    target = forest.paths.derived(index.DERIVED[kind], name).path
    making = tombstone.require_parents(forest.root, kind, name, card.parents)
    with durable.publish_folder(target, replace=True) as folder, making:
        digests = write(folder)
        card = replace(card, sha256=weights.identity(digests), sums=True)
        card = ledger.summed(descended(card, forest))
        card = measured(card, measure(folder, card))
        ModelFolder(folder).card.write_text(json.dumps(card.to_json(), indent=1))
        ModelFolder(folder).readme.write_text(model_card.readme(card, kind))
        sums.write(folder, digests)
    take_back(forest, kind, target, card)
    return target


def measured_again(forest: Forest, kind: str, card: Card, found: dict[str, Measured]) -> None:
    """Put the losses `found` on the card of a derived model that stands, in place of those that it
    has; its weights stay, and so does the time when they were made.
    """
    target = forest.paths.derived(index.DERIVED[kind], card.name).path
    made, new = ModelFolder(target), replace(measured(card, found), created=card.created)
    written = {made.card.name, made.readme.name, sums.NAME}
    making = tombstone.require_parents(forest.root, kind, card.name, card.parents)
    with durable.publish_folder(target, replace=True) as folder, making:
        if Card.read(made.card).sha256 != card.sha256:
            raise UserError(f"{target} was made anew meanwhile: give the same command again")
        rest, link = shutil.ignore_patterns(*written), durable.link_or_copy
        shutil.copytree(target, folder, dirs_exist_ok=True, ignore=rest, copy_function=link)
        ModelFolder(folder).card.write_text(json.dumps(new.to_json(), indent=1))
        ModelFolder(folder).readme.write_text(model_card.readme(new, kind))
        known = sums.read(target) if card.sums else {}
        sums.write(folder, {name: known[name] for name in known.keys() - written})
    take_back(forest, kind, target, new)


def take_back(forest: Forest, kind: str, target: Path, card: Card) -> None:
    """Delete a derived model that was published just now, and raise `UserError`, if one of its
    parents was removed meanwhile.
    """
    try:
        # A removal that looked for heirs before the rename has a tombstone by now, or looks again
        # after it (removal.remove): one of the two sees the other.
        tombstone.refuse_parents(forest.root, kind, card.name, card.parents, card.sha256)
    except UserError:
        with suppress(FileNotFoundError):
            durable.remove_folder(target)
        raise


def measured(card: Card, found: dict[str, Measured]) -> Card:
    """Fill in the losses by domain, their mean and the time."""
    mean = sum(part.nats for part in found.values()) / len(found) if found else None
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(card, measured=found, valid_nats=mean, created=created)


def settings_again(forest: Forest, card: Card) -> Settings | None:
    """Read the settings of an average from its card; None if an ELM that they name is gone, or if
    they have Fisher information, which a card does not hold.
    """
    known = dict(card.recipe)
    base = known.pop("base", None)
    if not {name for own in known.get("layers", {}).values() for name in own} <= set(
        forest.names()
    ):
        return None
    if known.pop("importance", None) or (base is not None and base not in forest):
        return None
    try:
        return Settings(base=None if base is None else forest[base].path, **known)
    except TypeError:  # a card of another version
        return None


@contextmanager
def trial(
    forest: Forest,
    parents: Mapping[str, float],
    settings: Settings,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Average `parents` {ELM: weight} into a folder that is deleted when the block ends."""
    with durable.scratch_in(forest.paths.averages) as scratch:
        folder = scratch / "trial"
        folder.mkdir()
        folders = {forest[name].path: weight for name, weight in parents.items() if weight != 0}
        averaging.average(folders, folder, alive, settings)
        causal_lm.copy_files(min(folders), folder)
        if settings.dtype:
            causal_lm.declare_dtype(ModelFolder(folder).config, settings.dtype)
        yield folder


def card_of(
    forest: Forest, name: str, parents: Mapping[str, float], method: str, settings: Settings
) -> Card:
    """Make the card that the average `name` would have, but for its sha256 and its losses."""
    return ledger.summed(_card(forest, name, parents, method, settings))


def scale_of(
    forest: Forest,
    name: str,
    parents: Mapping[str, float],
    settings: Settings,
    fitted: str = "",
) -> float | None:
    """Read the scale of the average `name`, if it has these parents, weights and settings, and its
    scale was found as `fitted` says in words; else None.

    A card from before these were kept names neither, and is taken to be of what is asked.
    """
    file = forest.paths.average(name).card
    if not file.exists():
        return None
    standing = Card.read(file)
    scale = float(standing.recipe.get("scale", 1.0))
    wanted = _card(forest, name, parents, standing.branch_method, replace(settings, scale=scale))
    wanted = replace(wanted, estimator=fitted, settings={SCALE: "fit"})
    return None if differences(standing, wanted) else scale


def differences(standing: Card, wanted: Card) -> list[Difference]:
    """List all in which the average on one card differs from that on another: how its weights were
    found, these, its parents, its settings, and what its scale was fitted on.

    What one of the two does not say, as a card from before it was kept, is no difference.
    """
    found = []
    if standing.branch_method != wanted.branch_method:
        found.append(Difference("method of the weights", *_both("branch_method", standing, wanted)))
    old, new = ({n: p.raw for n, p in card.parents.items()} for card in (standing, wanted))
    if old != new:
        found.append(Difference("weights", *(_rounded(each) for each in (old, new))))
    found += [
        Difference(f"parent {name}", standing.parents[name].sha256[:12], parent.sha256[:12])
        for name, parent in wanted.parents.items()
        if name in old and standing.parents[name].sha256 != parent.sha256
    ]
    found += of_recipe(standing.recipe, wanted.recipe)
    found += identity.differences(standing.settings, wanted.settings)
    if standing.estimator and wanted.estimator and standing.estimator != wanted.estimator:
        found.append(Difference("how it was found", *_both("estimator", standing, wanted)))
    return found


def of_recipe(standing: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """List the settings in which two recipes on cards differ; what is not named has its default."""
    return [
        Difference(key, old, new)
        for key in sorted({*standing, *wanted})
        if (old := standing.get(key, _USUAL.get(key))) != (new := wanted.get(key, _USUAL.get(key)))
    ]


def _card(
    forest: Forest, name: str, parents: Mapping[str, float], method: str, settings: Settings
) -> Card:
    """Make the card of an average, before its parameters are made."""
    shares = _shares(parents, settings)
    like = forest[next(iter(shares))].card
    origins = {
        n: Parent(share, float(parents.get(n, 0.0)), forest[n].card.sha256)
        for n, share in shares.items()
    }
    return Card(
        name=name,
        domains=sorted(
            {
                domain
                for parent, weight in parents.items()
                if weight != 0
                for domain in forest[parent].card.domains
            }
        ),
        sha256="",
        tokenizer_sha256=forest.identity["tokenizer_sha256"],
        parents=origins,
        branch_method=method,
        recipe=recipe_of(settings),
        ancestors=ledger.lineage(forest[parent].card for parent in origins),
        parameters=like.parameters,
        matrix_parameters=like.matrix_parameters,
        attention=like.attention,
    )


def _shares(parents: Mapping[str, float], settings: Settings) -> dict[str, float]:
    """Split an average into shares {ELM: share}, which add up to 1.

    A base has the rest that θ_0 + λ Σ w_j (θ_j − θ_0) leaves of it, and is named even where that
    is 0. A negative weight takes part by its size.
    """
    if settings.base is None:
        return normalise(parents)
    slerp = settings.method == "slerp"
    factor, whole = (settings.t, sum(parents.values())) if slerp else (settings.scale, 1.0)
    own = {name: abs(factor) * abs(weight) / whole for name, weight in parents.items()}
    base = settings.base.name
    rest = max(0.0, 1 - sum(own.values()))
    found = normalise(own | {base: own.get(base, 0.0) + rest})
    return found if base in found else found | {base: 0.0}


def recipe_of(settings: Settings) -> Json:
    """Select, as JSON values, the settings that change the parameters and are not the default."""
    known = asdict(settings) | {"base": settings.base and settings.base.name}
    known["importance"] = sorted(path.name for path in settings.importance.values())
    known["layers"] = {pattern: dict(own) for pattern, own in settings.layers.items()}
    return {key: value for key, value in known.items() if value != _USUAL[key] and key != "threads"}


def _both(key: str, standing: Card, wanted: Card) -> tuple[Any, Any]:
    return getattr(standing, key), getattr(wanted, key)


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: round(weight, 6) for name, weight in weights.items()}
