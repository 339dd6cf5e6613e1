"""Averages that are measured without being kept: the rows of `averages=`.

Each is made in a scratch folder only where scores of it are missing, one at a time, streamed as
`btm average` streams it, and deleted once it is scored. Its scores stand under the sha256 of its
weights, so the same average, written later, finds them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from btm.config.recipes import Recipe, recipes
from btm.config.schema import Config
from btm.data.shards import Shard
from btm.errors import UserError
from btm.forest import Forest, Model, publish, unwritten
from btm.forest.suites import open_suites
from btm.models import average as averaging
from btm.models import weights
from btm.models.average import Settings
from btm.report import Reporter, quiet
from btm.steps import recipe as finding
from btm.steps import score_cache


@dataclass(frozen=True)
class Unwritten(Model):
    """An average that has no folder: `path` is where `btm average` would write it.

    `sha256` is "" until its weights were made once, here or by an earlier command.
    """

    recipe: Recipe
    parents: dict[str, float]  # {ELM: weight}; equal ones while a word's are still to be fitted
    settings: Settings
    sources: tuple[Path, ...]  # the folders that it is made of


def asked(config: Config, forest: Forest) -> list[Unwritten]:
    """List the averages that `config.averages` asks for; nothing is computed.

    Raises `UserError` for an ELM that is not there, a name that is taken, or a method that does not
    take such weights.
    """
    wanted = recipes(config.averages, config.average)
    for each in wanted:
        _require_free(forest, each.name)
    return [unwritten_of(config, forest, each) for each in wanted]


def unwritten_of(config: Config, forest: Forest, recipe: Recipe) -> Unwritten:
    """Look one recipe up in the forest: its ELMs, and its weights and sha256 if they are known."""
    parents = _parents(config, forest, recipe, quiet, may_score=False)
    is_known = bool(parents)
    if not is_known:
        parents = {elm.name: 1.0 for elm in forest.experts(recipe.average.experts)}
    return _made_of(config, forest, recipe, parents, is_known=is_known)


def _require_free(forest: Forest, name: str) -> None:
    """Refuse the name of a row that the evaluation has anyway."""
    path = forest.paths.average(name).path
    if path.exists() or name in forest:
        what = f"the average {path}" if path.exists() else f"the ELM {name!r}"
        raise UserError(
            f"averages.{name}: {what} stands, and is measured anyway: give another name, or leave "
            "it out"
        )


def settled(config: Config, forest: Forest, model: Model, reporter: Reporter = quiet) -> Model:
    """Return `model` with the weights of its word fitted, and its sha256 if that is known by now.

    A model that has a folder is returned as it is.
    """
    if not isinstance(model, Unwritten):
        return model
    parents = _parents(config, forest, model.recipe, reporter, may_score=True)
    return _made_of(config, forest, model.recipe, parents, is_known=True)


def score(
    config: Config, forest: Forest, model: Unwritten, shards: list[Shard], reporter: Reporter
) -> list[Path]:
    """Make the average and score it on those of `shards` where its scores are missing."""
    made = settled(config, forest, model, reporter)
    assert isinstance(made, Unwritten) and made.card is not None
    if made.sha256 and not score_cache.unscored(config, forest, made.sha256, shards):
        return []
    with publish.trial(forest, made.parents, made.settings, reporter.alive) as folder:
        sha256 = weights.sha256(folder)
        unwritten.note(forest.root, made.card, sha256)
        return score_cache.score_missing(
            config, forest, folder, sha256, shards, reporter, called=made.name
        )


def _parents(
    config: Config, forest: Forest, recipe: Recipe, reporter: Reporter, *, may_score: bool
) -> dict[str, float]:
    """Find {ELM: weight}; {} if that needs scores which `may_score` forbids to compute."""
    if isinstance(recipe.weights, dict):
        for name in recipe.weights:
            forest[name]  # a name that is not there is refused by the forest
        return recipe.weights
    elms = forest.experts(recipe.average.experts)
    if recipe.weights == "uniform":
        return {elm.name: 1.0 for elm in elms}
    config = replace(config, domain=recipe.domain)
    domains = finding.meant_for(config, elms)
    suite = open_suites(config)
    shards = [suite.shard(domain, "valid") for domain in domains]
    cards = score_cache.for_cards(config)
    missing = any(score_cache.unscored(cards, forest, elm.card.sha256, shards) for elm in elms)
    if missing and len(elms) > 1 and not may_score:
        return {}
    return finding.fitted_weights(config, forest, recipe.weights, elms, reporter)


def _made_of(
    config: Config, forest: Forest, recipe: Recipe, parents: dict[str, float], *, is_known: bool
) -> Unwritten:
    """Put an unwritten average together; its sha256 is looked up where its weights are known."""
    own = replace(config, average=recipe.average)
    settings = finding.settings_of(own, forest, parents, lambda: open_suites(own))
    folders = {forest[name].path: weight for name, weight in parents.items() if weight != 0}
    averaging.check(settings, folders)
    if settings.layers:
        averaging.Models(folders, settings)  # refuses patterns that match no tensor
    how = recipe.weights if isinstance(recipe.weights, str) else "weights"
    card = publish.card_of(forest, recipe.name, parents, how, settings)
    sha256 = unwritten.known(forest.root, card) if is_known else ""
    path = forest.paths.average(recipe.name).path
    sources = (*folders, *((settings.base,) if settings.base else ()))
    return Unwritten(
        recipe.name,
        path,
        sha256,
        "average",
        replace(card, sha256=sha256),
        recipe,
        parents,
        settings,
        sources,
    )
