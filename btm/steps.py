"""The algorithm, one function a verb, read top to bottom (Branch-Train-Merge, arXiv 2208.03306).

Every step takes the configuration and reads all else from the forest and the suite on disk; each is
idempotent: what stands there already is not made again.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm import averages, distributed, durable, ensemble, evaluate, models, online, phase, tombstone
from btm import fairseq_training as by_fairseq
from btm.checks import check_weights
from btm.config import Config
from btm.data import prepare as preparation
from btm.data.shards import Shard, Suite
from btm.discover.context import check_domains
from btm.errors import UserError
from btm.forest import ELM, Branch, Forest
from btm.interop import huggingface
from btm.report import Reporter, heatmap, quiet


def prepare(config: Config, reporter: Reporter = quiet) -> Suite:
    """Turn text into token shards, unless they stand there already."""
    if config.baseline == "random_split":
        return open_suite(config)  # dealt from another suite (btm/baselines), it has no text of its own
    return preparation.prepare(config.data, reporter.line)


def open_suite(config: Config) -> Suite:
    """Return the prepared suite that `config` names."""
    return Suite.open(Path(config.data.out) / config.data.name)


def seed(config: Config, reporter: Reporter = quiet) -> ELM:
    """Grow the ELM that all others descend from: train it on the balanced mix, or import it.

    With ``seed.steps=0`` it keeps its random parameters: the paper's seed phase of 0 %.
    """
    suite = open_suite(config)
    by_fairseq.check(config, suite)
    if config.seed.source is not None:
        return _import_seed(config, suite, reporter)
    name = config.seed.name
    domains = [] if config.seed_steps == 0 else config.seed.domains or suite.training_domains()
    for domain in domains:
        suite.shard(domain, "train")
    models.pick_device(config.trainer.device)
    forest, model = _plant(config, suite)
    if name in forest:
        return forest[name]
    if not forest.has_branch(name):
        model = model or _new_model(config, suite)
        forest.root_branch(name, domains, model)
    del model
    dense = replace(config.trainer, delta_density=1.0)  # it has no parents
    train(replace(config, trainer=dense), name, reporter)
    return merge(config, name, reporter)


def branch(
    config: Config,
    name: str,
    domain: str,
    *,
    among: list[str] | None = None,
    reporter: Reporter = quiet,
) -> Branch:
    """Initialise a new ELM for `domain` from those in the forest (or in `among`)."""
    forest, suite = Forest(config.forest_root), open_suite(config)
    forest.require_free(name)
    suite.shard(domain, "train")
    candidates = forest.experts(among)
    if config.weights is not None:
        return forest.branch(
            name,
            domain,
            check_weights(config.weights),
            method="weights",
            estimator="given",
            alive=reporter.alive,
        )
    if config.branch == "copy":
        parents = {copied(config, forest): 1.0}
        return forest.branch(name, domain, parents, method="copy", estimator="given", alive=reporter.alive)
    weights, estimator = ensemble.domain_weights(
        config, forest, suite, domain, candidates, config.branch, reporter
    )
    return forest.branch(
        name, domain, weights, method=config.branch, estimator=estimator, alive=reporter.alive
    )


def train(config: Config, name: str, reporter: Reporter = quiet) -> Branch:
    """Train a branch on its own domain alone, from wherever an earlier attempt stopped."""
    forest, suite = Forest(config.forest_root), open_suite(config)
    if (trained := forest.get_branch(name)).result is not None:
        return trained
    with forest.hold(name) as (branch, held):

        def pulse(step: int) -> bool:
            held.beat()
            return reporter.pulse(step)

        shards = [suite.shard(domain, "train") for domain in branch.domains]
        result: dict[str, Any] = {"steps": 0, "tokens": 0}
        if shards:
            together = distributed.processes(config, branch) > 1
            run = distributed.train if together else phase.train
            result = run(config, forest, branch, shards, suite, reporter, pulse)
        if branch.parents:
            result |= ensemble.valid_nats(config, forest, branch, suite, reporter)
        durable.write_json(branch.path / "trained.json", result)
    return forest.get_branch(name)


def merge(config: Config, name: str, reporter: Reporter = quiet) -> ELM:
    """Move a trained branch into the forest, if it passes the checks."""
    forest = Forest(config.forest_root)
    if name in forest:
        return forest[name]
    license = config.card.license or ""
    elm = forest.merge(forest.get_branch(name), force=config.merge.force, license=license)
    reporter.line(f"merged {elm.path}")
    return elm


def grow(config: Config, domain: str, among: list[str], reporter: Reporter = quiet) -> ELM:
    """Branch, train and merge the expert of one domain, from wherever an earlier attempt stopped."""
    forest = Forest(config.forest_root)
    if domain in forest:
        return forest[domain]
    if not forest.has_branch(domain):
        try:
            branch(config, domain, domain, among=among, reporter=reporter)
        except (UserError, FileExistsError):
            if domain not in forest and not forest.has_branch(domain):
                raise  # else a twin of this process was faster, and its branch is as good
    if domain in forest:
        return forest[domain]
    train(config, domain, reporter)
    return merge(config, domain, reporter)


def score(config: Config, reporter: Reporter = quiet) -> list[Path]:
    """Compute the token log-probabilities that are missing, ELM by ELM."""
    forest, suite = Forest(config.forest_root), open_suite(config)
    elms = [forest[name] for name in config.score.experts] or forest.elms()
    shards = _shards(suite, config.score.domains, config.score.splits)
    return [
        path
        for elm in elms
        for path in ensemble.score_missing(config, forest, elm.path, elm.card.sha256, shards, reporter)
    ]


def eval_forest(config: Config, reporter: Reporter = quiet) -> dict[str, Any]:
    """Evaluate the ensemble and every ELM alone; write ``evals/<name>.json`` and its heat map."""
    forest, suite = Forest(config.forest_root), open_suite(config)
    shards, valid = _evaluated(config, suite)
    _refuse_own_data(config, suite, shards)
    elms = forest.elms()
    members = forest.experts(config.ensemble.experts)
    route = ensemble.route(config, forest, members, suite.eos)
    for elm in elms:
        _score_for_eval(config, forest, suite, elm, members, reporter)
    trained_on = {domain for elm in elms for domain in elm.card.domains}
    scores = ensemble.scores_of(config, forest)
    chosen = config.ensemble
    if chosen.fit == "forest":
        chosen = ensemble.fit_on_training_domains(config, forest, suite, members, trained_on, reporter)
    entries = {}
    for shard, valid_shard in zip(shards, valid, strict=True):
        entry = evaluate.shard_result(
            [elm.name for elm in elms],
            ensemble.stack(scores, shard, elms),
            [elm.name for elm in members],
            ensemble.stack(scores, valid_shard, members),
            chosen,
            shard.head(config.score.max_tokens),
            valid_shard.head(config.score.max_tokens)[0],
            (shard.tokens, valid_shard.tokens),
            route,
        )
        entries[f"{shard.domain}/{shard.split}"] = {"novel": shard.domain not in trained_on, **entry}
    result = {
        "schema": 1,
        "forest": str(forest.root),
        "suite": suite.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "window": config.window,
        "ensemble": asdict(config.ensemble) | {"experts": [elm.name for elm in members]},
        "elms": {elm.name: elm.card.sha256 for elm in elms},
        "ledger": ensemble.cost(config, elms, members),
        "shards": entries,
    }
    target = forest.root / "evals" / f"{config.eval.name or forest.root.name}.json"
    durable.write_json(target, result)
    heatmap(result, target.with_suffix(".png"))
    return result


def score_for_eval(config: Config, name: str, reporter: Reporter = quiet) -> None:
    """Compute what `eval_forest` will need of one ELM, so that many machines can share that work."""
    forest = Forest(config.forest_root)
    members = forest.experts(config.ensemble.experts)
    _score_for_eval(config, forest, open_suite(config), forest[name], members, reporter)


def average(config: Config, reporter: Reporter = quiet) -> Path:
    """Average ELMs into one deployable LM in ``averages/``."""
    forest = Forest(config.forest_root)
    how, name = average_of(config)
    elms = forest.experts(config.average.experts)
    if how == "weights":
        weights = check_weights(config.weights)
    elif config.average.method == "greedy_soup":
        weights = averages.greedy_soup(config, forest, open_suite(config), str(config.domain), elms, reporter)
    elif how == "uniform":
        weights = {elm.name: 1.0 for elm in elms}
    else:
        suite, domain = open_suite(config), str(config.domain)
        weights, _ = ensemble.domain_weights(config, forest, suite, domain, elms, how, reporter)
    settings = averages.settings_of(config, forest, weights, lambda: open_suite(config), reporter)
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


def generate(config: Config, reporter: Reporter = quiet) -> dict[str, Any]:
    """Go on with a prompt; the ensemble keeps, loads and runs its top-k experts alone.

    Their prior, and what the rule leaves open, are fitted on the valid split of `domain`; without a domain the prior
    is the same for all, and what is open stands at the value that changes nothing, a gate at its default.
    """
    if not config.prompt:
        raise UserError('what shall it go on with? give prompt="some text"')
    forest = Forest(config.forest_root)
    members = forest.experts(config.ensemble.experts)
    prior, rule = dict.fromkeys((elm.name for elm in members), 1.0), config.ensemble
    if config.domain:
        prior, rule = ensemble.fit_for(config, forest, open_suite(config), config.domain, members, reporter)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(forest.tokenizer, local_files_only=True)
    route = ensemble.route(config, forest, members, tokenizer.eos_token_id)
    device, top_k = models.pick_device(config.trainer.device), config.ensemble.top_k
    mixed = online.Ensemble.load(forest, prior, ensemble=rule, top_k=top_k, device=device, route=route)
    prompt = tokenizer(config.prompt, add_special_tokens=False).input_ids
    mixed.read(prompt)
    chosen = config.generate
    made = list(mixed.generate(chosen.tokens, chosen.temperature, chosen.seed))
    return {
        "prompt": config.prompt,
        "text": tokenizer.decode(made),
        "tokens": len(made),
        "experts": mixed.weights,
    }


def run(config: Config, reporter: Reporter = quiet) -> dict[str, Any]:
    """Grow a whole forest: seed, then rounds of branch, train and merge, then averages and evaluation.

    Within a round every branch sees the same forest, that of the rounds before, so the order of siblings
    and the place where an earlier run was killed make no difference.
    """
    suite = prepare(config, reporter)
    seed(config, reporter)
    Forest(config.forest_root).sweep()
    earlier: list[str] = []
    for domains in rounds(config, suite, reporter.line):
        for domain in domains:
            grow(config, domain, earlier or [config.seed.name], reporter)
        earlier += domains
    return finish(config, reporter)


def finish(config: Config, reporter: Reporter = quiet) -> dict[str, Any]:
    """End a cycle: the uniform average of the experts, if asked for, and the evaluation."""
    if config.run.average:
        reporter.line(f"averaged into {average(config, reporter)}")
    return eval_forest(config, reporter)


def rounds(config: Config, suite: Suite, say: Callable[[str], None] = lambda text: None) -> list[list[str]]:
    """Return the domains of each round; an unknown or repeated one is a `UserError`.

    The domain of an expert that was removed is left out, and `say` is told.
    """
    planned = config.run.rounds or [config.run.domains or suite.training_domains()]
    flat = [domain for domains in planned for domain in domains]
    for domain in flat:
        suite.shard(domain, "train")
    check_domains(config, flat)
    if len(set(flat)) < len(flat):
        raise UserError(f"run.rounds={planned}: a domain stands there twice")
    root = Path(config.forest_root)
    removed = tombstone.names(root) & set(flat)
    for domain in sorted(removed):
        say(f"not grown: {tombstone.error(root, domain)}")
    kept = [[domain for domain in domains if domain not in removed] for domains in planned]
    return [domains for domains in kept if domains] if removed else planned


def _plant(config: Config, suite: Suite) -> tuple[Forest, Any]:
    """Return the forest, planted if need be, and a model of its architecture, if one was made for that.

    A model that cannot be made plants nothing: a forest never gets another architecture.
    """
    wanted = models.make_config(config.model, suite.vocab_size, suite.eos)
    ensemble.check_context(config, wanted.to_dict())
    model = None if Forest.stands(config.forest_root) else _new_model(config, suite)
    return Forest.create(config.forest_root, wanted, suite.tokenizer, suite.tokenizer_sha256), model


def _import_seed(config: Config, suite: Suite, reporter: Reporter) -> ELM:
    """Return the seed that a Hugging Face folder is: the same checks as btm import, and that it fits the suite."""
    source, root, name = Path(str(config.seed.source)), Path(config.forest_root), config.seed.name
    legacy = config.imports.legacy
    with huggingface.checked(source, "seed.from", root, with_legacy=legacy, alive=reporter.alive) as model:
        if model.tokenizer_sha256 != suite.tokenizer_sha256:
            raise UserError(
                f"seed.from={source} has another tokenizer than the suite {suite.name!r}: prepare the text with its "
                f"own (btm prepare data.tokenizer={source} data.name=NAME …)"
            )
        ensemble.check_context(config, model.model.config.to_dict())
        return huggingface.enter(root, name, [], model)


def _new_model(config: Config, suite: Suite) -> Any:
    """Return the model that the seed phase begins with."""
    wanted = models.make_config(config.model, suite.vocab_size, suite.eos)
    return models.new_model(wanted, config.trainer.seed)


def copied(config: Config, forest: Forest) -> str:
    """Return the one parent of branch=copy."""
    if config.parent:
        return forest[config.parent].name
    if config.seed.name in forest:
        return config.seed.name
    raise UserError(f"branch=copy needs parent=NAME; have: {', '.join(forest.names()) or 'none'}")


def _evaluated(config: Config, suite: Suite) -> tuple[list[Shard], list[Shard]]:
    """Return the shards that an evaluation reports on, and those their priors are fitted on."""
    domains = config.eval.domains or suite.domains()
    return [suite.shard(d, config.eval.split) for d in domains], [suite.shard(d, "valid") for d in domains]


def _refuse_own_data(config: Config, suite: Suite, shards: list[Shard]) -> None:
    """Raise `UserError` if what is fitted on valid splits would be measured on one of them, by name or by content."""
    if not evaluate.is_fitted(config.ensemble):
        return
    domains = suite.domains() if config.ensemble.fit == "forest" else {shard.domain for shard in shards}
    fitted_on = {suite.shard(domain, "valid").sha256: domain for domain in domains}
    for shard in shards:
        if shard.sha256 in fitted_on:
            raise UserError(
                f"ensemble.prior={config.ensemble.prior} and ensemble.rule={config.ensemble.rule} are fitted on "
                f"{fitted_on[shard.sha256]}/valid, so {shard.domain}/{shard.split}, of the same text, would be "
                "measured on its own data: give another split, or ensemble=uniform or ensemble=updating"
            )


def _score_for_eval(
    config: Config, forest: Forest, suite: Suite, elm: ELM, members: list[ELM], reporter: Reporter
) -> None:
    shards, valid = _evaluated(config, suite)
    is_member = elm.name in {member.name for member in members}
    needed = [*shards, *valid] if is_member else shards
    ensemble.score_missing(config, forest, elm.path, elm.card.sha256, needed, reporter)


def _shards(suite: Suite, domains: list[str], splits: list[str]) -> list[Shard]:
    return [suite.shard(domain, split) for domain in domains or suite.domains() for split in splits]
