"""The losses of an ELM that was received as a difference, measured on our own text."""

from collections.abc import Callable

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Branch, Forest
from btm.forest.suites import open_suites
from btm.interop.received import Losses, Measure
from btm.report import Beating, Reporter, quiet
from btm.steps import score_cache


def measuring(config: Config, reporter: Reporter = quiet) -> Measure:
    """Return a function that measures a received branch and its parents, as a trained one is.

    Where the valid split of its domain is not prepared here, it says so, and no losses are known.
    """

    def measure(branch: Branch, beat: Callable[[], None]) -> Losses:
        if not branch.domains:
            return Losses(why="it has no domain")
        try:
            suite = open_suites(config)
            suite.shard(branch.domains[0], "valid").head(config.score.max_tokens)
        except UserError as error:
            reporter.line(f"{branch.name} is not measured: {error}")
            return Losses(why=f"no valid split of {branch.domains[0]!r} is prepared")
        beating = Beating(reporter, beat)
        forest = Forest(config.forest_root)
        nats = score_cache.valid_nats(config, forest, branch, suite, beating)
        return Losses(nats.own, nats.parents)

    return measure
