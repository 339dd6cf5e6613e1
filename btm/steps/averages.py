"""The step of `btm average`: average ELMs into one deployable LM, and measure it beside the seed.

What must be found for it first is in recipe.py; btm/forest/publish.py writes it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from btm.config.average import SCALED, check_average_weights
from btm.config.identity import Difference
from btm.config.schema import Config
from btm.data.shards import Shard
from btm.ensemble import score as scoring
from btm.errors import UserError, first_of
from btm.forest import Forest, Model, index, publish, require_same_tokenizer
from btm.forest.card import Candidate, Card, Measured
from btm.forest.paths import ModelFolder
from btm.forest.suites import open_suites
from btm.report import Reporter, quiet
from btm.steps import apart, held_out, recipe, score_cache, search
from btm.steps.bench import search as by_tasks
from btm.steps.beside import seeds
from btm.steps.plan import Plan

# Of an unpublished folder and its card: the losses by domain
Measuring = Callable[[Path, Card], dict[str, Measured]]


def average(config: Config, reporter: Reporter = quiet) -> Path:
    """Average ELMs into one deployable LM in ``averages/`` and return its folder.

    Where the user names no method, the experts get their token weights over all training domains,
    and the difference from the seed is scaled by what is best on valid (docs/averaging.md).
    """
    forest = Forest(config.forest_root)
    how, name = average_of(config)
    plan_of_average(config)  # refuses what does not stand, before any weight is looked for
    config = _with_method(config)
    elms = forest.experts(config.average.experts)
    estimator, candidates = "", list[Candidate]()
    if how == search.METHOD:
        found = _search_of(config).search(config, forest, name, reporter)
        if found is None:
            path = forest.paths.average(name).path
            measure_again(config, forest, index.AVERAGE, path, reporter)
            return path
        weights, estimator, candidates = found.weights, found.estimator, found.candidates
        config = replace(config, average=replace(config.average, layers=found.layers))
    elif how == "weights":
        weights = check_average_weights(config.weights, config.average)
    elif config.average.method == "greedy_soup":
        weights = recipe.greedy_soup(
            config, forest, open_suites(config), str(config.domain), elms, reporter
        )
    else:
        weights = recipe.fitted_weights(config, forest, how, elms, reporter)
    settings = recipe.settings_of(config, forest, weights, lambda: open_suites(config), reporter)
    for line in _cautions(config, forest, name, weights):
        reporter.line(f"warning: {line}")
    if config.average.scale == recipe.FIT:
        domains = recipe.meant_for(config, elms)
        settings, estimator = recipe.fit_scale(
            config, forest, name, weights, settings, domains, reporter
        )
    path = publish.average(
        forest,
        name,
        weights,
        method=how,
        estimator=estimator,
        candidates=candidates,
        settings=settings,
        scale=config.average.scale if config.average.method in SCALED else None,
        alive=reporter.alive,
        say=reporter.line,
        measure=measuring(config, forest, reporter),
    )
    if how == search.METHOD:
        found.state.unlink(missing_ok=True)
    measure_again(config, forest, index.AVERAGE, path, reporter)
    for line in worth(Card.read(ModelFolder(path).card)):
        reporter.line(line)
    return path


def plan_of_average(config: Config) -> Plan:
    """Plan `average`: its name, how its weights are found, and the ELMs that it is made of."""
    forest = Forest(config.forest_root)
    how, name = average_of(config)
    shares = None
    if how == "weights":
        shares = check_average_weights(config.weights, config.average)
    elms = forest.experts(config.average.experts if shares is None else list(shares))
    if config.domain:
        open_suites(config).shard(config.domain, "valid")
    base = [forest[config.average.base].path] if config.average.base else []
    equal = {elm.name: 1.0 for elm in elms}  # where they are still to be found
    weights = "given" if how == "weights" else how
    if how == search.METHOD:
        weights = _search_of(config).plan(config, forest)
    measured = "; measured on valid splits, the seed beside it" if config.average.measure else ""
    return Plan(
        "average",
        name,
        f"{weights} weights over {', '.join(elm.name for elm in elms)}{measured}",
        makes=(name,),
        parents=tuple(elm.name for elm in elms),
        reads=(*(elm.path for elm in elms), *base),
        writes=(forest.paths.average(name).path,),
        cautions=tuple(_cautions(config, forest, name, shares or equal)),
    )


def _cautions(
    config: Config, forest: Forest, name: str, weights: Mapping[str, float]
) -> Iterator[str]:
    """Warn of parents that share little, and of given weights that a linear average scales, unless
    they are all alike.
    """
    yield from apart.warnings(config, forest, name, weights)
    total, is_given = sum(weights.values()), isinstance(config.weights, Mapping)
    is_scaled = abs(total - 1) > 1e-6 and len(set(weights.values())) > 1
    if is_given and config.average.method in (None, "linear") and is_scaled:
        shares = ", ".join(f"{elm} {weight / total:.3f}" for elm, weight in weights.items())
        yield f"the weights sum to {total:g}, and are scaled to 1: {shares}"


def measuring(config: Config, forest: Forest, reporter: Reporter = quiet) -> Measuring:
    """Return a function that measures a derived model before it is sealed: on ``domain=``, or else
    on all of its domains.

    If that is impossible, because no suite is prepared, say, it reports why and returns {}.
    """

    def measure(folder: Path, card: Card) -> dict[str, Measured]:
        if not config.average.measure:
            return {}
        try:
            return _measure(config, forest, folder, card, reporter)
        except UserError as error:
            reporter.line(f"{card.name} is not measured: {error}")
            return {}

    return measure


def measure_again(
    config: Config, forest: Forest, kind: str, path: Path, reporter: Reporter = quiet
) -> None:
    """Measure a derived model of a `kind` that stands in `path` again, where its losses are of
    other text, windows or tokens than `config` has; a line names each difference.

    Under average.measure=false, or where it cannot be measured, the line says that they stay. Of
    one that was not measured when it was made, nothing is.
    """
    card = Card.read(ModelFolder(path).card)
    try:
        found = _outdated(config, card) if card.measured else []
    except UserError as error:
        reporter.line(f"the losses of {card.name} are those on its card: {error}")
        return
    if not found:
        return
    then = "it is measured again" if config.average.measure else "they stay as they are"
    said = "; ".join(map(str, found))
    reporter.line(f"{path}: its losses are of other text or settings: {said}: {then}")
    if measured := measuring(config, forest, reporter)(path, card):
        publish.measured_again(forest, kind, card, measured)


def _outdated(config: Config, card: Card) -> list[Difference]:
    """List what the losses on a card are of, and what they would be of now, where that differs."""
    config, found = score_cache.for_cards(config), list[Difference]()
    now = _valid_of(config, card)
    gone = sorted(card.measured.keys() - now.keys())
    if gone and not config.domain:
        raise UserError(f"the text of {first_of(gone)} is not prepared here")
    if card.measured.keys() != now.keys():
        return [Difference("domains", ", ".join(sorted(card.measured)), ", ".join(sorted(now)))]
    for domain, old in card.measured.items():
        if old.shard and old.shard != now[domain].sha256:
            new = now[domain].sha256
            found.append(Difference(f"valid of {domain}", old.shard[:12], new[:12]))
        elif old.tokens != (tokens := _counted(config, now[domain])):
            found.append(Difference(f"tokens of {domain}", old.tokens, tokens))
        if old.window != config.window:
            found.append(Difference("score.window", old.window, config.window))
    return list(dict.fromkeys(found))


def _valid_of(config: Config, card: Card) -> dict[str, Shard]:
    """Find the valid shards that a derived model is measured on: of ``domain=``, or else of all of
    its domains; `UserError` if there are none.
    """
    suite = open_suites(config)
    prepared = suite.domains()
    domains = (
        [config.domain] if config.domain else [name for name in card.domains if name in prepared]
    )
    if not domains:
        raise UserError(
            f"{suite.path} has none of its domains ({', '.join(card.domains) or 'it has none'})"
        )
    return {domain: suite.shard(domain, "valid") for domain in domains}


def _counted(config: Config, shard: Shard) -> int:
    """Count the tokens that a loss is the mean over."""
    tokens, _ = shard.head(config.score.max_tokens)
    return tokens - (shard.n_given(tokens) if shard.is_prompted else 0)


def worth(card: Card, remedy: str = "average otherwise (docs/averaging.md)") -> list[str]:
    """Put the losses of a derived model and its seeds in a line, and a warning with the `remedy`
    for each seed that is no worse.
    """
    if not card.measured or card.valid_nats is None:
        return []
    models = {card.name: card.valid_nats} | card.seed_nats
    on = next(iter(card.measured)) if len(card.measured) == 1 else f"{len(card.measured)} domains"
    said = ", ".join(f"{name} {nats:.4f}" for name, nats in models.items())
    lines = [f"nats/token on valid of {on}: {said}"]
    lines += [
        f"warning: {card.name} is no better than {seed} there: {remedy}, or deploy the ensemble"
        for seed, nats in card.seed_nats.items()
        if card.valid_nats >= nats
    ]
    return lines


def _measure(
    config: Config, forest: Forest, folder: Path, card: Card, reporter: Reporter
) -> dict[str, Measured]:
    """Score the average in `folder` and the seeds of its parents; return their losses by domain."""
    config, suite = score_cache.for_cards(config), open_suites(config)
    require_same_tokenizer(forest, suite.tokenizer_sha256, f"the suite {suite.path}")
    shards = _valid_of(config, card)
    made = Model(card.name, folder, card.sha256, "average", card)
    held_out.refuse(forest, suite, list(shards.values()), [made], reporter)
    score_cache.score_missing(
        config, forest, folder, card.sha256, list(shards.values()), reporter, called=card.name
    )
    roots = seeds(forest, [name for name in card.parents if forest[name].card.parents])
    digests = {name: forest[name].card.sha256 for name in roots}
    for name, sha256 in digests.items():
        score_cache.score_missing(
            config, forest, forest[name].path, sha256, list(shards.values()), reporter
        )

    scores, found = score_cache.scores_of(config, forest), {}
    for domain, shard in shards.items():
        tokens, _ = shard.head(config.score.max_tokens)
        nats = {
            sha256: scoring.nats_of(score_cache.read(scores, shard, sha256), shard, tokens)
            for sha256 in (card.sha256, *digests.values())
        }
        beside = {name: nats[sha256] for name, sha256 in digests.items()}
        found[domain] = Measured(
            nats[card.sha256], beside, _counted(config, shard), config.window, shard.sha256
        )
    return found


def _search_of(config: Config) -> ModuleType:
    """Return the module that searches: by gradient on valid text, or by benchmark."""
    return by_tasks if config.average.search == "tasks" else search


def average_of(config: Config) -> tuple[str, str]:
    """Decide how the weights of an average are found, and its name."""
    if _says_nothing(config):
        domain = [config.domain] if config.domain else []
        return "token", config.average.name or "-".join(["fitted", *domain])
    if config.average.search is not None:
        if config.weights is not None:
            raise UserError(
                f"average.search={config.average.search} finds the weights itself: leave out "
                "weights="
            )
        domain = [config.domain] if config.domain else []
        return search.METHOD, config.average.name or "-".join([search.METHOD, *domain])
    how = "uniform" if config.weights is None else config.weights
    method = config.average.method or "linear"
    if method == "greedy_soup":
        if config.weights is not None:
            raise UserError(
                "average.method=greedy_soup finds the weights itself: leave out weights="
            )
        if config.domain is None:
            raise UserError("greedy_soup weights are found for a domain: give domain=NAME")
        how = method
    if not isinstance(how, str):
        how = "weights"
    words = [
        *([] if method in ("linear", how) else [method.replace("_", "-")]),
        how.replace("_", "-"),
    ]
    return how, config.average.name or "-".join(
        [*words, *([config.domain] if config.domain else [])]
    )


def _with_method(config: Config) -> Config:
    """Fill in the method of an average, where the user named none."""
    if _says_nothing(config):
        return replace(
            config, average=replace(config.average, method="task_arithmetic", scale=recipe.FIT)
        )
    return replace(
        config, average=replace(config.average, method=config.average.method or "linear")
    )


def _says_nothing(config: Config) -> bool:
    """Tell whether the user left open how the average is made."""
    chosen = config.average
    return (
        config.weights is None
        and chosen.method is None
        and chosen.search is None
        and not chosen.layers
        and chosen.base is None
    )
