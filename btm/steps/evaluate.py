"""Use a forest: score its ELMs, evaluate the ensemble beside each of them, let it write."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm import durable, ensemble, evaluate, models, online
from btm.config import Config
from btm.data.shards import Shard, Suite, open_suite
from btm.errors import UserError
from btm.forest import ELM, Forest
from btm.report import Reporter, heatmap, quiet


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
        _score_for_eval(config, forest, suite, elm, [member.name for member in members], reporter)
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
    # Those that are named need not stand yet: an ELM is scored as soon as it does.
    members = config.ensemble.experts or [elm.name for elm in forest.experts()]
    _score_for_eval(config, forest, open_suite(config), forest[name], members, reporter)


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
    config: Config, forest: Forest, suite: Suite, elm: ELM, members: list[str], reporter: Reporter
) -> None:
    shards, valid = _evaluated(config, suite)
    needed = [*shards, *valid] if elm.name in members else shards
    ensemble.score_missing(config, forest, elm.path, elm.card.sha256, needed, reporter)


def _shards(suite: Suite, domains: list[str], splits: list[str]) -> list[Shard]:
    return [suite.shard(domain, split) for domain in domains or suite.domains() for split in splits]
