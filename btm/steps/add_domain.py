"""Add a domain to a grown forest: its text, its expert, and what both change (`btm grow`).

The promise of Branch-Train-Merge (arXiv 2208.03306, section 3): a new expert joins the set and no
other is touched.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm.config.checks import check_name, is_name
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.data.shards import Suite
from btm.ensemble.router import check_domains
from btm.errors import UserError
from btm.forest import ELM, Forest, settings, tombstone
from btm.forest.suites import data_of, evaluated_suites, open_suite, open_suites
from btm.report import Reporter, quiet
from btm.steps import conflicts, names
from btm.steps.evaluate import eval_forest, evaluated
from btm.steps.grow import grow_expert, plan_of_expert, prepare
from btm.steps.plan import Plan
from btm.steps.standing import require_held_out, require_trained
from btm.system import durable
from btm.system.json_files import Json, read_object

SCHEMA = 1


@dataclass(frozen=True)
class Change:
    """The ensemble's perplexity on one domain without the new expert and with it."""

    domain: str
    kind: str  # new | trained | novel
    tokens: int  # that were evaluated
    before: float
    after: float
    expert_alone: float  # the new expert, without an ensemble

    @property
    def ratio(self) -> float:
        """Perplexity with the new expert over that without it; below 1 it helps."""
        return self.after / self.before


@dataclass(frozen=True)
class Added:
    """What adding a domain came to; evals/grow-<domain>.json holds the same."""

    file: Path
    domain: str
    changes: list[Change]  # the new domain first

    def to_json(self) -> Json:
        """Return the domains as they stand in the file."""
        return {
            "domain": self.domain,
            "domains": [asdict(c) | {"ratio": c.ratio} for c in self.changes],
        }


def add_domain(config: Config, reporter: Reporter = quiet) -> Added:
    """Prepare, branch, train and merge the expert of `config.domain`, evaluating before and after.

    The text is that in `from=`, packed with the forest's tokenizer into a suite of its own, or,
    without that, of a domain that is prepared already. Whatever stands is not made again, so a
    killed command is simply repeated.
    """
    forest, domain = Forest(config.forest_root), new_domain(config)
    if config.imports.source:
        settings.record(config, forest, open_suite(config))  # a forest that an older btm has grown
        text = text_of(config)
        _require_own_suite(text, forest)
        prepare(text, reporter)
    open_suites(config).shard(domain, "train")
    suite = evaluated_suites(config)
    suite.shard(domain, config.eval.split)
    require_trained(forest, open_suites(config), [domain], reporter.line)
    among = [elm.name for elm in _experts(config, forest, without=domain)]
    conflicts.refuse(config, {domain: conflicts.of_expert(config, forest, domain, among)})
    done = _read(config, forest, suite, domain)
    if done is not None:
        return done
    if not forest.has_branch(domain):
        plan_of_expert(config, domain, among)  # refuses before anything is evaluated
    shards, valid = evaluated(config, suite)
    require_held_out(config, open_suites(config), [*shards, *valid], [domain])
    before = _evaluate(config, forest, suite, f"before-{domain}", without=domain, reporter=reporter)
    if domain not in forest:
        grow_expert(config, domain, among, reporter)
    after = _evaluate(config, forest, suite, f"after-{domain}", reporter=reporter)
    return _write(config, forest, suite, domain, (before, after))


def plan_of_add_domain(config: Config) -> list[Plan]:
    """Plan `add_domain`, but for the preparation of its text: its expert, and the evaluations."""
    forest, domain = Forest(config.forest_root), new_domain(config)
    if not config.imports.source:
        open_suites(config).shard(domain, "train")
        evaluated_suites(config).shard(domain, config.eval.split)
    target = _file(forest, domain)
    evaluations = [forest.paths.evaluation(f"{when}-{domain}") for when in ("before", "after")]
    what = f"the ensemble without and with {domain}, on every domain; writes {target}"
    evaluation = Plan("eval", target.stem, what, writes=(target, *evaluations))
    if domain in forest and _read(config, forest, evaluated_suites(config), domain) is not None:
        evaluation = Plan.nothing("eval", target.stem)
    among = [elm.name for elm in _experts(config, forest, without=domain)]
    return [plan_of_expert(config, domain, among), evaluation]


def new_domain(config: Config) -> str:
    """Check that a domain can be added, and return its name; `UserError` if it cannot."""
    if config.domain is None:
        raise UserError("which domain? give domain=NAME, and from=DIR or FILE where its text is")
    name = check_name(config.domain, "domain")
    if config.expert not in (None, name):
        raise UserError(
            f"expert={config.expert}: btm grow names an expert after its domain; leave expert= out"
        )
    if config.eval.name:
        raise UserError(
            f"eval.name={config.eval.name}: btm grow names its evaluations after the domain; "
            "leave it out"
        )
    forest = Forest(config.forest_root)
    tombstone.refuse(forest.root, name)
    if name in forest and forest[name].card.domains != [name]:
        raise UserError(
            f"{forest.root} has an ELM {name!r} that was not trained on a domain {name!r} alone: "
            "give the new domain another name"
        )
    names.require_apart(config, [name])
    if forest.root.name in (file := _file(forest, name).stem, f"before-{name}", f"after-{name}"):
        raise UserError(
            f"btm grow writes evals/{file}.json beside before-{name} and after-{name}, and "
            f"{forest.root} has an evaluation {forest.root.name!r} of its own: give the domain "
            "another name"
        )
    check_domains(config, [name])
    return name


def text_of(config: Config) -> Config:
    """Return `config` with the suite that the text in `from=` becomes: of one domain, beside the
    forest's own.
    """
    name = f"{Path(config.forest_root).name}-{config.domain}"
    data = replace(
        config.data,
        name=name if is_name(name) else f"added-{config.domain}"[:63],
        root=config.imports.source,
        domain=config.domain,
        made_by="",
        names={},
        tokenizer=None,
        sampling=None,  # the forest's tokenizer is taken
    )
    return replace(config, data=data)


def _require_own_suite(text: Config, forest: Forest) -> None:
    """Raise `UserError` if the suite of a new domain is another's: with other text, and not known
    to the forest.
    """
    folder = Path(text.data.out) / text.data.name
    if text.data.name in settings.read_suites(forest.root):
        return
    if preparation.prepared(text.data) and not all(
        packing.stands for packing in preparation.plan(data_of(text))
    ):
        raise UserError(
            f"{folder} is a suite that {forest.root} does not know, of other text than "
            f"{text.data.root}: give data.out=DIR, or the domain another name"
        )


def _experts(config: Config, forest: Forest, without: str) -> list[ELM]:
    """List the experts of the ensemble without one of them."""
    kept = [elm for elm in forest.experts(config.ensemble.experts) if elm.name != without]
    return kept or [elm for elm in forest.elms() if elm.name != without]


def _evaluate(
    config: Config,
    forest: Forest,
    suite: Suite,
    name: str,
    *,
    without: str = "",
    reporter: Reporter,
) -> Json:
    reporter.line(f"evaluating on {len(_domains(config, suite))} domains: {name}")
    experts = (
        [elm.name for elm in _experts(config, forest, without)]
        if without
        else config.ensemble.experts
    )
    ensemble = replace(config.ensemble, experts=experts)
    return eval_forest(
        replace(config, ensemble=ensemble, eval=replace(config.eval, name=name)), reporter
    )


def _domains(config: Config, suite: Suite) -> list[str]:
    return config.eval.domains or suite.domains()


def _asked(config: Config, suite: Suite) -> Json:
    """Collect everything but the ELMs that the numbers of an evaluation depend on."""
    splits = dict.fromkeys((config.eval.split, "valid"))
    return {
        "ensemble": asdict(config.ensemble),
        "window": config.window,
        "stride": config.stride,
        "max_tokens": config.score.max_tokens,
        "shards": {
            f"{domain}/{split}": suite.shard(domain, split).sha256
            for domain in _domains(config, suite)
            for split in splits
        },
    }


def _file(forest: Forest, domain: str) -> Path:
    return forest.paths.growth(domain)


def _read(config: Config, forest: Forest, suite: Suite, domain: str) -> Added | None:
    """Read the result of an earlier call with the same settings; None if there is none."""
    file = _file(forest, domain)
    if not file.exists() or domain not in forest:
        return None
    values = read_object(file, schema=int, elms=dict, asked=dict, domains=list)
    standing = {elm.name: elm.card.sha256 for elm in forest.elms()}
    measured = values["elms"].items() <= standing.items()  # ELMs that joined since change nothing
    asked = {"stride": 0} | values["asked"]  # a result from before there was one
    if domain not in values["elms"] or not measured or asked != _asked(config, suite):
        return None
    rows = (
        {key: value for key, value in row.items() if key != "ratio"} for row in values["domains"]
    )
    return Added(file, domain, [Change(**row) for row in rows])


def _write(
    config: Config,
    forest: Forest,
    suite: Suite,
    domain: str,
    results: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Added:
    """Publish the changes by domain between evaluations without the new expert and with it."""
    before, after = (result["shards"] for result in results)
    changes = []
    for name in sorted(_domains(config, suite), key=lambda name: (name != domain, name)):
        key = f"{name}/{config.eval.split}"
        kind = "new" if name == domain else "novel" if after[key]["novel"] else "trained"
        change = Change(
            domain=name,
            kind=kind,
            tokens=after[key]["tokens"],
            before=before[key]["ensemble"]["perplexity"],
            after=after[key]["ensemble"]["perplexity"],
            expert_alone=after[key]["experts"][domain]["perplexity"],
        )
        changes.append(change)
    added = Added(_file(forest, domain), domain, changes)
    values = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "forest": str(forest.root),
        "elms": results[1]["elms"],
        "asked": _asked(config, suite),
        **added.to_json(),
    }
    durable.write_json(added.file, values)
    return added
