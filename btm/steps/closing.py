"""The end of a training: what it came to, with its losses, for the card."""

from dataclasses import replace

from btm.config.schema import Config
from btm.data.bos import ALWAYS
from btm.data.shards import Suite
from btm.forest import Branch, Forest, trained_on
from btm.forest.suites import open_suites
from btm.report import Beating, Reporter, quiet
from btm.steps import conflicts, score_cache
from btm.system import durable
from btm.train.training import Trained


def close(
    config: Config,
    forest: Forest,
    branch: Branch,
    suite: Suite,
    trained: Trained,
    reporter: Reporter,
) -> None:
    """Measure a branch that is trained and held, and write its result."""
    settings = conflicts.settings_of(config, forest, branch, trained.precision or "")
    if suite.bos is not None:
        settings |= {"data.bos": ALWAYS}  # whichever policy it came by
    trained = with_statements(replace(trained, settings=settings), suite)
    if branch.parents:
        nats = score_cache.valid_nats(config, forest, branch, suite, reporter)
        trained = replace(trained, valid_nats=nats.own, parent_valid_nats=nats.parents)
    durable.write_json(branch.files.result, trained.to_json())


def with_statements(trained: Trained, suite: Suite) -> Trained:
    """Add the languages and sources that the suite states of the domains trained on."""
    about = [suite.about(domain) for domain in trained.data or {}]
    sources: list[dict[str, str]] = []
    for source in (source for each in about for source in each.sources):
        if source not in sources:
            sources.append(source)
    languages = list(dict.fromkeys(tag for each in about for tag in each.languages))
    return replace(trained, languages=languages, sources=sources)


def adopt(config: Config, name: str, trained: Trained, reporter: Reporter = quiet) -> Branch:
    """Close a branch whose weights were not trained by `train`, with the result that it is given;
    its text is that of the suite.
    """
    forest, suite = Forest(config.forest_root), open_suites(config)
    if (done := forest.get_branch(name)).result is not None:
        return done
    with forest.hold(name) as (branch, held):
        shards = [suite.shard(domain, "train") for domain in branch.domains]
        trained_on.record(forest.paths, shards)
        trained = replace(trained, data={shard.domain: shard.sha256 for shard in shards})
        close(config, forest, branch, suite, trained, Beating(reporter, held.beat))
    return forest.get_branch(name)
