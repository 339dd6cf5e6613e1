"""What a command would do, for --dry-run: reads the same folders as the steps, writes nothing."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from btm import steps
from btm.cli.preflight.names import rounds
from btm.config.checks import check_weights
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.data.documents import find
from btm.ensemble.router import find_router
from btm.ensemble.rules import rule_of
from btm.errors import UserError
from btm.forest import Forest, Model, find_model, gc, removal, verify
from btm.forest.paths import AVERAGES
from btm.forest.suites import data_of, evaluated_suites
from btm.interop import formats
from btm.report.progress import bytes_text
from btm.steps import domain_weights, rederive
from btm.train import checkpoint
from btm.train.distributed import job

Row = dict[str, Any]


def plan(verb: str, config: Config, flags: Collection[str] = ()) -> list[Row]:
    """Return one row for each thing that ``btm <verb>`` would do with `config` and `flags`."""
    if verb == "remove":
        return _remove(config, flags)
    return _PLANS.get(verb, _reads)(config)


def _reads(config: Config) -> list[Row]:
    return [_row("nothing", "", "this verb only reads")]


def _prepare(config: Config) -> list[Row]:
    return list(preparation.plan(data_of(config)))


def _seed(config: Config) -> list[Row]:
    forest = _forest(config)
    name = config.seed.name
    if forest and name in forest:
        return [_row("seed", name, "nothing: it stands there")]
    if config.seed.source:
        return [_row("seed", name, f"import {config.seed.source}")]
    n_steps = config.seed_steps(steps.open_suite(config).training_domains())
    if n_steps == 0:
        return [_row("seed", name, "random parameters, untrained")]
    return [_row("seed", name, _training(config, forest, name, n_steps))]


def _branch(config: Config) -> list[Row]:
    name = _named(config)
    forest, suite = Forest(config.forest_root), steps.open_suites(config)
    forest.require_free(name)
    suite.shard(config.domain or name, "train")
    return [_row("branch", name, _beginning(config, forest, name))]


def _train(config: Config) -> list[Row]:
    name = _named(config)
    forest = Forest(config.forest_root)
    made = forest.get_branch(name)
    if made.result:
        return [_row("train", name, "nothing: it is trained")]
    return [_row("train", name, _training(config, forest, name, config.trainer.steps))]


def _merge(config: Config) -> list[Row]:
    forest, name = Forest(config.forest_root), _named(config)
    if name in forest:
        return [_row("merge", name, "nothing: it stands there")]
    made = forest.get_branch(name)
    if made.result is None:
        raise UserError(f"branch {made.name!r} is not trained yet: btm train expert={made.name}")
    return [_row("merge", made.name, f"check {made.path} and move it to {forest.paths.elms}")]


def _grow(config: Config) -> list[Row]:
    forest, name = Forest(config.forest_root), steps.new_domain(config)
    if config.imports.source:
        rows = _prepare(steps.text_of(config))
    else:
        steps.open_suites(config).shard(name, "train")
        rows = []
    training = "nothing: it stands there"
    if name not in forest:
        made = _beginning(config, forest, name)
        training = (
            f"branch ({made}), {_training(config, forest, name, config.trainer.steps)}, merge"
        )
    target = forest.paths.growth(name)
    evaluation = f"the ensemble without and with {name}, on every domain; writes {target}"
    return [*rows, _row("grow", name, training), _row("eval", target.stem, evaluation)]


def _score(config: Config) -> list[Row]:
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    domains = config.score.domains or suite.domains()
    shards = [suite.shard(domain, split) for domain in domains for split in config.score.splits]
    tokens = sum(shard.head(config.score.max_tokens)[0] for shard in shards)
    elms = [find_model(forest, name).name for name in config.score.experts] or forest.names()
    return [
        _row("score", elm, f"{len(shards)} shards, {tokens:,} tokens, where missing")
        for elm in elms
    ]


def _evaluate(config: Config) -> list[Row]:
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    target = forest.paths.evaluation(config.eval.name)
    shards = [
        suite.shard(domain, config.eval.split) for domain in config.eval.domains or suite.domains()
    ]
    route = domain_weights.route(config, forest, forest.experts(config.ensemble.experts), suite.eos)
    weighed = "weighed by the router" if route else f"prior {config.ensemble.prior}"
    more = steps.beside(config, forest)
    alone = f" and {', '.join(model.name for model in more)}" if more else ""
    what = f"{len(forest.elms())} ELMs{alone} on {len(shards)} shards, {weighed}"
    return [_row("eval", target.stem, f"{what}; writes {target}")]


def _compare(config: Config) -> list[Row]:
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    shards = [
        suite.shard(domain, config.eval.split) for domain in config.eval.domains or suite.domains()
    ]
    members = forest.experts(config.ensemble.experts)
    rows = [
        _row(
            "compare",
            forest.root.name,
            f"ensemble of {len(members)} and top-1 on {len(shards)} shards",
        )
    ]
    rows += [
        _row("beside", model.name, f"{model.kind} in {model.path}")
        for model in steps.beside(config, forest)
    ]
    rows += [
        _row("beside", root.name, f"{kind} in {Forest(root).root}")
        for root, kind in steps.rivals(config)
    ]
    return [
        *rows,
        _row(
            "write",
            steps.compared_file(config).name,
            "what scores are missing, the table, a picture",
        ),
    ]


def _average(config: Config) -> list[Row]:
    forest = Forest(config.forest_root)
    method, name = steps.average_of(config)
    given = list(check_weights(config.weights)) if method == "weights" else config.average.experts
    names = [elm.name for elm in forest.experts(given)]
    if config.domain:
        steps.open_suites(config).shard(config.domain, "valid")
    if config.average.base:
        forest[config.average.base]
    how = "given" if method == "weights" else method
    measured = "; measured on valid splits, the seed beside it" if config.average.measure else ""
    return [_row("average", name, f"{how} weights over {', '.join(names)}{measured}")]


def _import(config: Config) -> list[Row]:
    name, domains = formats.imported_as(config)
    as_what = f"an expert of {domains[0]}" if domains else "a seed"
    what = f"check {config.imports.source} and add it to {config.forest_root} as {as_what}"
    return [_row("import", name, what)]


def _export(config: Config) -> list[Row]:
    source = formats.exported(config)
    return [
        _row(
            "export",
            source.name,
            f"write {source} as {config.format} to {config.to or 'the screen'}",
        )
    ]


def _discover(config: Config) -> list[Row]:
    if config.data.root is None:
        raise UserError("data.root is missing: discovery needs data=folder data.root=DIR")
    sources = find(Path(config.data.root))
    if Path(config.discover_target).exists():
        raise UserError(
            f"{config.discover_target} stands there already; give another discover.out=DIR"
        )
    what = (
        f"cluster the documents of {len(sources)} sources in {config.data.root} into "
        f"{config.discover.k} domains"
    )
    return [_row("discover", config.discover_target, what)]


def _cancel(config: Config) -> list[Row]:
    Forest(config.forest_root)
    what = f"the job of {config.expert}" if config.expert else "the cycle"
    return [_row("cancel", config.forest_root, f"stop {what} after a checkpoint, if it is at work")]


def _generate(config: Config) -> list[Row]:
    found = steps.writers(config, Forest(config.forest_root))
    if rule_of(config.ensemble).needs_route:
        find_router(config)
        what = (
            f"{config.generate.tokens:,} tokens at most, {len(found)} experts weighed by the router"
        )
        return [_row("generate", config.prompt or "", what)]
    kept = min(config.ensemble.top_k, len(found)) or len(found)
    under = (
        f"the {config.ensemble.prior} prior of {config.domain}"
        if config.domain
        else "a uniform prior"
    )
    what = (
        f"{config.generate.tokens:,} tokens at most, {kept} of {len(found)} {_members(found)} "
        f"under {under}"
    )
    return [_row("generate", config.prompt or "", what)]


def _members(found: list[Model]) -> str:
    """Return what the members of an ensemble are called: experts, where all of them are ELMs."""
    return "experts" if all(model.kind == "ELM" for model in found) else "models"


def _run(config: Config) -> list[Row]:
    from btm.launch.forecast import forecast, too_few_tokens
    from btm.steps.baselines import derive

    derived = derive(config)
    rows = forecast(derived, rounds(derived))
    prepares = [{"job": f"prepare {row['name']}", "what": row["what"]} for row in _prepare(config)]
    if config.baseline == "random_split":
        prepares.append(
            {"job": "deal", "what": f"documents at random, where missing: {derived.data.name}"}
        )
    notes = [{"job": "note", "what": text}] if (text := too_few_tokens(config)) else []
    return [dict.fromkeys(rows[0]) | row for row in [*prepares, *notes]] + rows


def _remove(config: Config, flags: Collection[str]) -> list[Row]:
    if config.average.name is not None:
        removal.check_average(config, flags)
        path = verify.folder_of(
            Forest(config.forest_root).root, f"{AVERAGES}/{config.average.name}"
        )
        return [_row("remove", path.name, f"delete {path} and its scores")]
    forest, name = Forest(config.forest_root), _named(config)
    found = removal.consequences(forest, name)
    if "--readmit" in flags:
        return [_row("remove", name, "let the name be used again; nothing comes back")]
    if "--rederive" in flags:
        rederive.make_plan(config, forest, name)
    rows = [_row("remove", name, "delete its weights and scores, leave a tombstone")]
    fate = "make it again without" if "--rederive" in flags else "stays, with parameters from"
    fate = "delete it, as it descends from" if "--with-descendants" in flags else fate
    for heir in found.heirs:
        share = "an unknown share" if heir.share is None else f"a share of {heir.share:.4g}"
        rows.append(_row(heir.kind, heir.name, f"{fate} {name}: {share}"))
    return rows


def _gc(config: Config) -> list[Row]:
    found = gc.find(Forest(config.forest_root))
    rows = [
        _row("delete", str(waste.path), f"{bytes_text(waste.size)}: {waste.why}") for waste in found
    ]
    return rows or [_row("nothing", "", "everything is needed")]


def _paper(config: Config) -> list[Row]:
    from btm import paper

    return paper.plan(config)


def _beginning(config: Config, forest: Forest, name: str) -> str:
    """Return what a branch begins with."""
    if config.weights is not None:
        parents = [forest[parent].name for parent in check_weights(config.weights)]
        return f"average {', '.join(parents)} with the given weights"
    if config.branch == "copy":
        return f"copy {steps.copied(config, forest)}"
    return _origin(config, [elm.name for elm in forest.experts() if elm.name != name])


def _origin(config: Config, candidates: list[str]) -> str:
    if len(candidates) == 1:
        return f"copy {candidates[0]}"
    return f"{config.branch} of {', '.join(candidates)}"


def _training(config: Config, forest: Forest | None, name: str, n_steps: int) -> str:
    trainer = config.trainer
    text = f"train {n_steps:,} steps, {n_steps * trainer.batch_size * trainer.seq_len:,} tokens"
    text += job.said(config, "seed" if name == config.seed.name else "train")
    text += "" if trainer.backend == "btm" else f", by {trainer.backend}"
    begun = (
        checkpoint.latest(forest.get_branch(name).path)
        if forest and forest.has_branch(name)
        else None
    )
    return f"{text}, from {begun.name}" if begun else text


def _forest(config: Config) -> Forest | None:
    root = Path(config.forest_root)
    return Forest(root) if Forest.stands(root) else None


def _named(config: Config) -> str:
    if config.expert is None:
        raise UserError("which one? give expert=NAME")
    return config.expert


def _row(step: str, name: str, what: str) -> Row:
    return {"step": step, "name": name, "what": what}


_PLANS = {
    "prepare": _prepare,
    "seed": _seed,
    "branch": _branch,
    "train": _train,
    "merge": _merge,
    "grow": _grow,
    "score": _score,
    "eval": _evaluate,
    "compare": _compare,
    "average": _average,
    "generate": _generate,
    "import": _import,
    "export": _export,
    "run": _run,
    "discover": _discover,
    "cancel": _cancel,
    "gc": _gc,
    "paper": _paper,
}
