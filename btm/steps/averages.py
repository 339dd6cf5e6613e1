"""Average ELMs of a forest into one deployable LM: which weights, and under which name."""

from pathlib import Path

from btm import averages, ensemble
from btm.checks import check_weights
from btm.config import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.report import Reporter, quiet


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
    return averages.publish(forest, name, weights, method=how, settings=settings, alive=reporter.alive)


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
