"""Average ELMs of a forest into one deployable LM: which weights, and under which name."""

from collections.abc import Callable
from pathlib import Path

from btm import averages, ensemble
from btm import score as scoring
from btm.card import Card, Measured
from btm.checks import check_weights
from btm.config import Config
from btm.errors import UserError
from btm.forest import Forest, require_same_tokenizer
from btm.forest.suites import open_suites
from btm.report import Reporter, quiet
from btm.steps.beside import seeds


def average(config: Config, reporter: Reporter = quiet) -> Path:
    """Average ELMs into one deployable LM in ``averages/``."""
    forest = Forest(config.forest_root)
    how, name = average_of(config)
    elms = forest.experts(config.average.experts)
    if how == "weights":
        weights = check_weights(config.weights)
    elif config.average.method == "greedy_soup":
        weights = averages.greedy_soup(
            config, forest, open_suites(config), str(config.domain), elms, reporter
        )
    elif how == "uniform":
        weights = {elm.name: 1.0 for elm in elms}
    else:
        suite, domain = open_suites(config), str(config.domain)
        weights, _ = ensemble.domain_weights(config, forest, suite, domain, elms, how, reporter)
    settings = averages.settings_of(config, forest, weights, lambda: open_suites(config), reporter)
    path = averages.publish(
        forest,
        name,
        weights,
        method=how,
        settings=settings,
        alive=reporter.alive,
        measure=measuring(config, forest, reporter),
    )
    for line in worth(Card.read(path / "card.json")):
        reporter.line(line)
    return path


def measuring(
    config: Config, forest: Forest, reporter: Reporter = quiet
) -> Callable[[Path, Card], dict[str, Measured]]:
    """Return the function that measures an average before it is sealed: on ``domain=``, or else on all of its domains.

    Where that cannot be done, for want of a prepared suite for one, it says so and returns nothing.
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


def worth(card: Card) -> list[str]:
    """Return in a line what an average was worth when it was made; in another a warning if a seed is no worse."""
    if not card.measured or card.valid_nats is None:
        return []
    models = {card.name: card.valid_nats} | card.seed_nats
    on = next(iter(card.measured)) if len(card.measured) == 1 else f"{len(card.measured)} domains"
    said = ", ".join(f"{name} {nats:.4f}" for name, nats in models.items())
    lines = [f"nats/token on valid of {on}: {said}"]
    lines += [
        f"warning: {card.name} is no better than {seed} there: average otherwise (docs/averaging.md), "
        "or deploy the ensemble"
        for seed, nats in card.seed_nats.items()
        if card.valid_nats >= nats
    ]
    return lines


def _measure(
    config: Config, forest: Forest, folder: Path, card: Card, reporter: Reporter
) -> dict[str, Measured]:
    """Return the losses of the average in `folder` and of the seeds of its parents, by domain."""
    suite = open_suites(config)
    require_same_tokenizer(forest, suite.tokenizer_sha256, f"the suite {suite.path}")
    prepared = suite.domains()
    domains = [config.domain] if config.domain else [name for name in card.domains if name in prepared]
    if not domains:
        raise UserError(f"{suite.path} has none of its domains ({', '.join(card.domains) or 'it has none'})")
    shards = {domain: suite.shard(domain, "valid") for domain in domains}
    ensemble.score_missing(
        config, forest, folder, card.sha256, list(shards.values()), reporter, called=card.name
    )
    roots = seeds(forest, [name for name in card.parents if forest[name].card.parents])
    digests = {name: forest[name].card.sha256 for name in roots}
    for name, sha256 in digests.items():
        ensemble.score_missing(config, forest, forest[name].path, sha256, list(shards.values()), reporter)

    scores, found = ensemble.scores_of(config, forest), {}
    for domain, shard in shards.items():
        tokens, _ = shard.head(config.score.max_tokens)
        nats = {
            sha256: scoring.mean_nats(ensemble.read(scores, shard, sha256), tokens)
            for sha256 in (card.sha256, *digests.values())
        }
        beside = {name: nats[sha256] for name, sha256 in digests.items()}
        found[domain] = Measured(nats[card.sha256], beside, tokens, config.window)
    return found


def average_of(config: Config) -> tuple[str, str]:
    """Return how the weights of an average are found, and its name."""
    how = "uniform" if config.weights is None else config.weights
    method = config.average.method
    if method == "greedy_soup":
        if config.weights is not None:
            raise UserError("average.method=greedy_soup finds the weights itself: leave out weights=")
        how = method
    if not isinstance(how, str):
        how = "weights"
    elif how != "uniform" and config.domain is None:
        raise UserError(f"{how} weights are found for a domain: give domain=NAME")
    words = [*([] if method in ("linear", how) else [method.replace("_", "-")]), how.replace("_", "-")]
    return how, config.average.name or "-".join([*words, *([config.domain] if config.domain else [])])
