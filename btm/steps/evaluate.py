"""Use a forest: score its ELMs, evaluate the ensemble beside each of them, let it write."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.ensemble import evaluate
from btm.ensemble import generate as online
from btm.ensemble import score as scoring
from btm.ensemble.rules import rule_of
from btm.errors import UserError
from btm.forest import ELM, Forest, Model, find_model
from btm.forest.suites import evaluated_suites, open_suites
from btm.models import causal_lm
from btm.report import Reporter, heatmap, quiet
from btm.steps import domain_weights, score_cache
from btm.steps.beside import beside, cost, score_model, seeds, warnings
from btm.system import durable
from btm.system.json_files import Json


def score(config: Config, reporter: Reporter = quiet) -> list[Path]:
    """Compute the token log-probabilities that are missing, model by model."""
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    names = config.score.experts or [elm.name for elm in forest.elms()]
    chosen = [find_model(forest, name) for name in names]
    shards = _shards(suite, config.score.domains, config.score.splits)
    return [
        path for model in chosen for path in score_model(config, forest, model, shards, reporter)
    ]


def eval_forest(config: Config, reporter: Reporter = quiet) -> Json:
    """Evaluate the ensemble and every model alone; write ``evals/<name>.json`` and its heat map.

    Averages and what ``models=`` names are rows of their own: they take no part in the ensemble,
    nor in its prior.
    """
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    elms = forest.elms()
    members = forest.experts(config.ensemble.experts)
    standing = {elm.path for elm in elms}
    others = [model for model in beside(config, forest, reporter) if model.path not in standing]
    entries = measure(config, forest, suite, elms, members, others, reporter=reporter)
    costs = domain_weights.cost(config, elms, members)
    costs["models"] = {model.name: cost(config, model) for model in others}
    roots = seeds(forest, [elm.name for elm in members])
    result = {
        "schema": 1,
        "forest": str(forest.root),
        "suite": suite.name,
        "suites": suite.names,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "window": config.window,
        "ensemble": asdict(config.ensemble) | {"experts": [elm.name for elm in members]},
        "elms": {elm.name: elm.card.sha256 for elm in elms},
        "models": {
            model.name: {"kind": model.kind, "path": str(model.path), "sha256": model.sha256}
            for model in others
        },
        "ledger": costs,
        "shards": entries,
        "warnings": warnings(entries, others, roots),
    }
    target = forest.paths.evaluation(config.eval.name)
    durable.write_json(target, result)
    heatmap(result, target.with_suffix(".png"))
    return result


def measure(
    config: Config,
    forest: Forest,
    suite: Suite,
    elms: list[ELM],
    members: list[ELM],
    others: list[Model],
    *,
    trained_on: set[str] | None = None,
    reporter: Reporter = quiet,
) -> Json:
    """Return {"domain/split": numbers} of the ensemble of `members`, and of the models alone.

    What is not in the score cache is computed. `trained_on` are the domains that are not novel, and
    on which a rule is fitted under ``ensemble.fit=forest``; by default those that `elms` were
    trained on.
    """
    shards, valid = evaluated(config, suite)
    refuse_own_data(config, suite, shards)
    if trained_on is None:
        trained_on = {domain for elm in elms for domain in elm.card.domains}
    route = domain_weights.route(config, forest, members, suite.eos)
    for elm in elms:
        _score_for_eval(config, forest, suite, elm, [member.name for member in members], reporter)
    for model in others:
        score_model(config, forest, model, shards, reporter)
    scores = score_cache.scores_of(config, forest)
    chosen = config.ensemble
    if chosen.fit == "forest":
        chosen = domain_weights.fit_on_training_domains(
            config, forest, suite, members, trained_on, reporter
        )
    entries = {}
    for shard, valid_shard in zip(shards, valid, strict=True):
        size = shard.head(config.score.max_tokens)
        entry = evaluate.shard_result(
            [elm.name for elm in elms],
            score_cache.stack(scores, shard, elms),
            [elm.name for elm in members],
            score_cache.stack(scores, valid_shard, members),
            chosen,
            size,
            valid_shard.head(config.score.max_tokens)[0],
            (shard.tokens, valid_shard.tokens),
            route,
        )
        alone = {model.name: score_cache.read(scores, shard, model.sha256) for model in others}
        entries[f"{shard.domain}/{shard.split}"] = {
            "novel": shard.domain not in trained_on,
            **entry,
            "models": {
                name: evaluate.numbers(scoring.mean_nats(logp, size[0]) * size[0], *size)
                for name, logp in alone.items()
            },
        }
    return entries


def score_for_eval(config: Config, name: str, reporter: Reporter = quiet) -> None:
    """Compute what `eval_forest` will need of one ELM, so that many machines can share that
    work.
    """
    forest = Forest(config.forest_root)
    # Those that are named need not stand yet: an ELM is scored as soon as it does.
    members = config.ensemble.experts or [elm.name for elm in forest.experts()]
    _score_for_eval(config, forest, evaluated_suites(config), forest[name], members, reporter)


def generate(config: Config, reporter: Reporter = quiet) -> dict[str, Any]:
    """Go on with a prompt; the ensemble keeps, loads and runs its top-k members alone.

    ``ensemble.experts=`` may name averages, models of other forests and folders beside ELMs, one of
    them alone too. Their prior, and what the rule leaves open, are fitted on the valid split of
    `domain`; without a domain the prior is the same for all, and what is open stands at the value
    that changes nothing, a gate at its default.
    """
    if not config.prompt:
        raise UserError('what shall it go on with? give prompt="some text"')
    forest = Forest(config.forest_root)
    members = writers(config, forest)
    prior, rule = dict.fromkeys((model.name for model in members), 1.0), config.ensemble
    if config.domain:
        suite = open_suites(config)
        for model in members:
            score_model(config, forest, model, [suite.shard(config.domain, "valid")], reporter)
        prior, rule = domain_weights.fit_for(
            config, forest, suite, config.domain, members, reporter
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(forest.tokenizer, local_files_only=True)
    route = domain_weights.route(config, forest, members, tokenizer.eos_token_id)
    device, top_k = causal_lm.pick_device(config.trainer.device), config.ensemble.top_k
    mixed = online.Ensemble.load(
        forest, prior, ensemble=rule, top_k=top_k, device=device, route=route
    )
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


def writers(config: Config, forest: Forest) -> list[Model]:
    """Return the models that write together: those that ``ensemble.experts=`` names, or every
    expert.
    """
    names = config.ensemble.experts or [elm.name for elm in forest.experts()]
    return [find_model(forest, name) for name in names]


def evaluated(config: Config, suite: Suite) -> tuple[list[Shard], list[Shard]]:
    """Return the shards that an evaluation reports on, and those their priors are fitted on."""
    domains = config.eval.domains or suite.domains()
    return [suite.shard(d, config.eval.split) for d in domains], [
        suite.shard(d, "valid") for d in domains
    ]


def refuse_own_data(
    config: Config,
    suite: Suite,
    shards: list[Shard],
    remedy: str = "give another split, or ensemble=uniform or ensemble=updating",
) -> None:
    """Raise `UserError` if what is fitted on valid splits would be measured on one of them, by name
    or by content.
    """
    if not rule_of(config.ensemble).is_fitted:
        return
    domains = (
        suite.domains() if config.ensemble.fit == "forest" else {shard.domain for shard in shards}
    )
    fitted_on = {suite.shard(domain, "valid").sha256: domain for domain in domains}
    for shard in shards:
        if shard.sha256 in fitted_on:
            raise UserError(
                f"ensemble.prior={config.ensemble.prior} and ensemble.rule={config.ensemble.rule} "
                "are fitted on "
                f"{fitted_on[shard.sha256]}/valid, so {shard.domain}/{shard.split}, of the same "
                "text, would be "
                f"measured on its own data: {remedy}"
            )


def _score_for_eval(
    config: Config, forest: Forest, suite: Suite, elm: ELM, members: list[str], reporter: Reporter
) -> None:
    shards, valid = evaluated(config, suite)
    needed = [*shards, *valid] if elm.name in members else shards
    score_cache.score_missing(config, forest, elm.path, elm.card.sha256, needed, reporter)


def _shards(suite: Suite, domains: list[str], splits: list[str]) -> list[Shard]:
    return [suite.shard(domain, split) for domain in domains or suite.domains() for split in splits]
