"""The deployable models of a forest: published averages of its ELMs, and what some ways to average
need to know.

How parameters are combined stands in ``btm/models/average/``; here is which models, with what
weights, and the card.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm.config.checks import check_name
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.ensemble import score as scoring
from btm.errors import UserError
from btm.forest import ELM, Forest, ledger, model_card
from btm.forest.card import Card, Measured, Parent
from btm.forest.paths import ModelFolder
from btm.models import causal_lm, weights
from btm.models.average import METHODS, Settings, average, normalise
from btm.report import Reporter, quiet
from btm.steps import fisher, score_cache
from btm.system import durable, sums


def publish(
    forest: Forest,
    name: str,
    parents: Mapping[str, float],
    *,
    method: str = "weights",
    settings: Settings = Settings(),  # noqa: B008 - it is frozen
    alive: Callable[[], None] = lambda: None,
    measure: Callable[[Path, Card], dict[str, Measured]] = lambda folder, card: {},
) -> Path:
    """Publish the average of `parents` {ELM: weight} in ``averages/`` and return its folder.

    `method` says where the weights come from. What `measure` finds of the model in its folder, by
    domain, stands on the card that is sealed with it. Nothing is done if the same average of the
    same weights stands there.
    """
    check_name(name, "average.name")
    target = forest.paths.average(name).path
    folders = {forest[parent].path: weight for parent, weight in parents.items() if weight > 0}
    card = _card(forest, name, parents, method, settings)
    standing = ModelFolder(target).card
    if standing.exists() and _same(Card.read(standing), card):
        return target
    with durable.publish_folder(target, replace=True) as folder:
        digests = average(folders, folder, alive, settings)
        causal_lm.copy_files(min(folders), folder)  # of the one whose dtypes the weights have
        if settings.dtype:
            causal_lm.declare_dtype(ModelFolder(folder).config, settings.dtype)
        card = ledger.summed(replace(card, sha256=weights.identity(digests), sums=True))
        card = _measured(card, measure(folder, card))
        ModelFolder(folder).card.write_text(json.dumps(card.to_json(), indent=1))
        ModelFolder(folder).readme.write_text(model_card.readme(card, average=True))
        sums.write(folder, digests)
    return target


def _measured(card: Card, found: dict[str, Measured]) -> Card:
    """Return a card with what was measured by domain; its mean is what a list shows."""
    mean = sum(part.nats for part in found.values()) / len(found) if found else None
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(card, measured=found, valid_nats=mean, created=created)


def settings_of(
    config: Config,
    forest: Forest,
    parents: Mapping[str, float],
    suite: Callable[[], Suite],
    reporter: Reporter = quiet,
) -> Settings:
    """Return how `config` wants an average of `parents` made; for fisher their Fisher information
    is estimated.
    """
    chosen = config.average
    method = "linear" if chosen.method in (None, "greedy_soup") else chosen.method
    base = forest[chosen.base or config.seed.name].path if METHODS[method].needs_base else None
    information: dict[Path, Path] = {}
    if chosen.method == "fisher":
        information = {
            forest[name].path: _information(config, forest, forest[name], suite(), reporter)
            for name in parents
        }
    return Settings(
        method=method,
        base=base,
        scale=1.0
        if isinstance(chosen.scale, str)
        else chosen.scale,  # fit: steps/averages.py finds it
        density=chosen.density,
        gamma=chosen.gamma,
        t=chosen.t,
        rescale=chosen.rescale,
        seed=chosen.seed,
        layers=chosen.layers or {},
        importance=information,
        accumulate=chosen.accumulate,
        dtype=None if chosen.dtype is None else weights.STORED[chosen.dtype],
        shard_bytes=int(chosen.shard_gb * 1e9) or None,
    )


def settings_again(forest: Forest, card: Card) -> Settings | None:
    """Return the settings that an average's card records, or None if what they need is not in the
    forest.
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


def greedy_soup(
    config: Config,
    forest: Forest,
    suite: Suite,
    domain: str,
    elms: list[ELM],
    reporter: Reporter = quiet,
) -> dict[str, float]:
    """Return {ELM: 1} of those whose uniform average is best on the domain's valid split (arXiv
    2203.05482, recipe 1).

    ELMs are tried from the best alone to the worst; one stays if the soup with it is no worse than
    without.
    """
    valid = suite.shard(domain, "valid")
    tokens, _ = valid.head(config.score.max_tokens)

    def nats(folder: Path, sha256: str) -> float:
        score_cache.score_missing(config, forest, folder, sha256, [valid], reporter)
        found = score_cache.scores_of(config, forest).read(valid, sha256)
        assert found is not None
        return scoring.mean_nats(found, tokens)

    alone = {elm.name: nats(elm.path, elm.card.sha256) for elm in elms}
    ranked = sorted(elms, key=lambda elm: (alone[elm.name], elm.name))
    soup, best = [ranked[0]], alone[ranked[0].name]
    for elm in ranked[1:]:
        with trial(
            forest, {other.name: 1.0 for other in [*soup, elm]}, Settings(), reporter.alive
        ) as candidate:
            found = nats(candidate, weights.sha256(candidate))
        if found <= best:
            soup, best = [*soup, elm], found
        reporter.line(f"soup with {elm.name}: {found:.4f} nats/token, best {best:.4f}")
    return {elm.name: 1.0 for elm in soup}


@contextmanager
def trial(
    forest: Forest,
    parents: Mapping[str, float],
    settings: Settings,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Yield the folder of an average of `parents` {ELM: weight} that is there to be measured, and
    then deleted.
    """
    scratch = durable.scratch_folder(durable.make_folder(forest.paths.averages))
    folder = scratch / "trial"
    try:
        folder.mkdir()
        folders = {forest[name].path: weight for name, weight in parents.items() if weight > 0}
        average(folders, folder, alive, settings)
        causal_lm.copy_files(min(folders), folder)
        yield folder
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def scale_of(
    forest: Forest, name: str, parents: Mapping[str, float], settings: Settings
) -> float | None:
    """Return the scale of the average `name` that stands, if it is of these parents and weights;
    else None.
    """
    file = forest.paths.average(name).card
    if not file.exists():
        return None
    standing = Card.read(file)
    scale = float(standing.recipe.get("scale", 1.0))
    wanted = _card(forest, name, parents, standing.branch_method, replace(settings, scale=scale))
    return scale if _same(standing, wanted) else None


def _information(
    config: Config, forest: Forest, elm: ELM, suite: Suite, reporter: Reporter
) -> Path:
    """Return the folder of an ELM's Fisher information on the valid split of the domain it was
    trained on.
    """
    if not elm.card.domains:
        raise UserError(
            f"average.method=fisher: {elm.name!r} has no domain of its own whose valid split "
            "could be used"
        )
    valid, count = suite.shard(elm.card.domains[0], "valid"), config.average.sequences
    target = forest.paths.fisher(elm.card.sha256, valid, config.window, count)
    if not target.exists():
        device = causal_lm.pick_device(config.trainer.device)
        reporter.line(f"Fisher information of {elm.name} on {valid.domain}/valid")
        try:
            with durable.publish_folder(target) as folder:
                fisher.fisher(elm.path, valid, config.window, count, folder, device, reporter.alive)
        except FileExistsError:
            pass  # another process was faster
    return target


def _card(
    forest: Forest, name: str, parents: Mapping[str, float], method: str, settings: Settings
) -> Card:
    """Return the card of an average before its parameters are made."""
    shares = _shares(parents, settings)
    like = forest[next(iter(shares))].card
    origins = {
        n: Parent(share, float(parents.get(n, 0.0)), forest[n].card.sha256)
        for n, share in shares.items()
    }
    return Card(
        name=name,
        domains=sorted(
            {domain for parent in normalise(parents) for domain in forest[parent].card.domains}
        ),
        sha256="",
        tokenizer_sha256=forest.identity["tokenizer_sha256"],
        parents=origins,
        branch_method=method,
        recipe=_recipe(settings),
        ancestors=ledger.lineage(forest[parent].card for parent in origins),
        parameters=like.parameters,
        matrix_parameters=like.matrix_parameters,
        attention=like.attention,
    )


def _shares(parents: Mapping[str, float], settings: Settings) -> dict[str, float]:
    """Return {ELM: share} of an average; a base has what θ_0 + λ Σ w_j (θ_j − θ_0) leaves of it,
    and always a place.
    """
    if settings.base is None:
        return normalise(parents)
    factor = settings.t if settings.method == "slerp" else settings.scale
    whole = 1.0 if settings.method == "slerp" else sum(parents.values())
    own = {
        name: abs(factor) * weight / (sum(parents.values()) / whole)
        for name, weight in parents.items()
    }
    base = settings.base.name
    rest = max(0.0, 1 - sum(own.values()))
    found = normalise(own | {base: own.get(base, 0.0) + rest})
    return found if base in found else found | {base: 0.0}


def _recipe(settings: Settings) -> dict[str, Any]:
    """Return, as JSON values, the settings that differ from their defaults and change the
    parameters.
    """
    known = asdict(settings) | {"base": settings.base and settings.base.name}
    known["importance"] = sorted(path.name for path in settings.importance.values())
    known["layers"] = {pattern: dict(own) for pattern, own in settings.layers.items()}
    usual = asdict(Settings()) | {"importance": []}
    return {key: value for key, value in known.items() if value != usual[key] and key != "threads"}


def _same(standing: Card, wanted: Card) -> bool:
    return (standing.parents, standing.recipe) == (wanted.parents, wanted.recipe)
