"""Use a forest: score its ELMs, and evaluate the ensemble beside each of them."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.ensemble import adapters, evaluate
from btm.ensemble import score as scoring
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text
from btm.errors import UserError
from btm.forest import ELM, Forest, Model, find_model
from btm.forest.paths import ModelFolder
from btm.forest.suites import evaluated_suites
from btm.models import causal_lm
from btm.report import Reporter, heatmap, pictures, quiet
from btm.steps import domain_weights, held_out, score_cache, standing, unwritten
from btm.steps.beside import (
    Subjects,
    beside,
    cost,
    folders_of,
    score_model,
    seeds,
    warnings,
)
from btm.steps.plan import Plan
from btm.system import durable
from btm.system.json_files import Json


def score(config: Config, reporter: Reporter = quiet) -> list[Path]:
    """Compute the token log-probabilities that are missing, model by model."""
    forest = Forest(config.forest_root)
    with adapters.resident():
        return [
            path
            for model, shards in _asked_scores(config, forest)
            for path in score_model(config, forest, model, shards, reporter)
        ]


def plan_of_score(config: Config) -> list[Plan]:
    """Plan `score`: for each model, the tokens and files of the scores that are missing."""
    forest = Forest(config.forest_root)
    return [
        plan_of_scores(config, forest, model, shards)
        for model, shards in _asked_scores(config, forest)
    ]


def _asked_scores(config: Config, forest: Forest) -> list[tuple[Model, list[Shard]]]:
    """List the models that `score` is asked for, each with the shards it is asked for."""
    suite = evaluated_suites(config)
    names = config.score.experts or [elm.name for elm in forest.elms()]
    shards = _shards(suite, config.score.domains, config.score.splits)
    return [(find_model(forest, name), shards) for name in names]


def plan_of_scores(config: Config, forest: Forest, model: Model, shards: list[Shard]) -> Plan:
    """Plan the scoring of one model on those of `shards` where the forest has no scores of it."""
    missing = score_cache.unscored(config, forest, model.sha256, shards)
    if not missing:
        return Plan.nothing("score", model.name, f"its scores on {len(shards)} shards stand")
    folders = folders_of(model)
    causal_lm.check_context(config, causal_lm.read_config(ModelFolder(folders[0]).config))
    scores = score_cache.scores_of(config, forest)
    tokens = sum(shard.head(config.score.max_tokens)[0] for shard in missing)
    told = [each for each in (score_cache.passes(config), str(config.load)) if each]
    return Plan(
        "score",
        model.name,
        "; ".join(
            [
                f"{len(missing)} of {len(shards)} shards, {tokens:,} tokens, whose scores are "
                "missing",
                *told,
            ]
        ),
        reads=(*folders, *(shard.folder for shard in missing)),
        # The name of the file is the sha256 of weights, which those of an average are yet to have.
        writes=tuple(
            scores.path(shard, model.sha256) if model.sha256 else scores.path(shard, "").parent
            for shard in missing
        ),
        tokens=sum(map(scores.reads, missing)),
    )


def eval_forest(config: Config, reporter: Reporter = quiet) -> Json:
    """Evaluate the ensemble and every model alone; write ``evals/<name>.json`` and its heat map.

    Averages and what ``models=`` names are rows of their own: they take no part in the ensemble,
    nor in its prior.
    """
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    subjects, router = _subjects(config, forest, reporter), standing.router_of(config)
    entries = measure(config, forest, suite, subjects, by_text_alone=True, reporter=reporter)
    subjects = _settled(config, forest, subjects)  # an average is known once it was made
    costs = domain_weights.cost(config, subjects.elms, subjects.members, entries)
    costs["models"] = {model.name: cost(config, model) for model in subjects.others}
    roots = seeds(forest, [elm.name for elm in subjects.members])
    result = {
        "schema": 1,
        "forest": str(forest.root),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **_identity(config, suite, subjects, router),
        "ledger": costs,
        "shards": entries,
        "warnings": warnings(entries, subjects.others, roots),
    }
    target = forest.paths.evaluation(config.eval.name)
    durable.write_json(target, result)
    picture = target.with_suffix(".png")
    pictures.attempt(lambda: heatmap(result, picture), picture)
    return result


def evaluation_stands(config: Config) -> bool:
    """Tell whether the evaluation that `eval_forest` would write is on disk already: of the same
    settings, text, ELMs and models.
    """
    try:
        forest, suite = Forest(config.forest_root), evaluated_suites(config)
        subjects, router = _subjects(config, forest), standing.router_of(config)
        wanted = _identity(config, suite, subjects, router)
    except UserError:  # what it is of is still to be made
        return False
    return standing.is_of(forest.paths.evaluation(config.eval.name), wanted)


def plan_of_eval(config: Config) -> Plan:
    """Plan `eval_forest`: who is evaluated on what, the scores that are missing, and the files."""
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    subjects = _subjects(config, forest)
    members, others = subjects.members, subjects.others
    _require_commitment(config)
    shards, _ = evaluated(config, suite)
    refuse_own_data(config, suite, shards)
    _refuse_trained_on(config, forest, suite, subjects, quiet)
    route = domain_weights.route(config, forest, members, {suite.eos})
    needed = needed_scores(config, forest, suite, subjects)
    plans = [plan_of_scores(config, forest, model, of_model) for model, of_model in needed]
    missing = [file for plan in plans for file in plan.writes]
    tokens = sum(plan.tokens or 0 for plan in plans)
    target = forest.paths.evaluation(config.eval.name)
    alone = f" and {', '.join(model.name for model in others)}" if others else ""
    weighed = "weighed by the router" if route else f"prior {config.ensemble.prior}"
    told = score_cache.passes(config)
    to_score = f"scores {tokens:,} tokens; " if missing else ""
    if missing and told:
        to_score = f"reads {tokens:,} tokens in {told}; "
    loaded = f"models with {config.load}; " if config.load.word else ""
    return Plan(
        "eval",
        target.stem,
        f"{len(subjects.elms)} ELMs{alone} on {len(shards)} shards, {weighed}; "
        f"{loaded}{to_score}writes {target}",
        parents=tuple(member.name for member in members),
        reads=tuple(dict.fromkeys(path for model, _ in needed for path in folders_of(model))),
        writes=(target, target.with_suffix(".png"), *dict.fromkeys(missing)),
        tokens=tokens,
    )


def check_text(
    config: Config, suite: Suite, domains: list[str], reporter: Reporter = quiet
) -> None:
    """Hold the text of a cycle that makes the experts of `domains` against what stands.

    Of ELMs whose text has grown `reporter` gets a line. Raises `UserError` if some of it is gone,
    or if what the cycle is evaluated on is training text of an ELM that stands or is made.
    """
    if Forest.stands(config.forest_root):
        forest = Forest(config.forest_root)
        standing.require_trained(forest, suite, [config.seed.name, *domains], reporter.line)
    shards, valid = evaluated(config, evaluated_suites(config))
    standing.require_held_out(config, suite, [*shards, *valid], domains)


def _subjects(config: Config, forest: Forest, reporter: Reporter = quiet) -> Subjects:
    """List all that is evaluated: every ELM, averages, and what ``models=`` names."""
    elms = forest.elms()
    own = {elm.path for elm in elms}
    others = [model for model in beside(config, forest, reporter) if model.path not in own]
    trained_on = {domain for elm in elms for domain in elm.card.domains}
    return Subjects(elms, forest.experts(config.ensemble.experts), others, trained_on)


def _settled(config: Config, forest: Forest, subjects: Subjects) -> Subjects:
    """Return the subjects with the sha256 of averages that have been made meanwhile."""
    others = [unwritten.settled(config, forest, model) for model in subjects.others]
    return replace(subjects, others=others)


def needed_scores(
    config: Config, forest: Forest, suite: Suite, subjects: Subjects
) -> list[tuple[Model, list[Shard]]]:
    """List the models that an evaluation needs scores of, each with the shards it needs.

    The prior of the members is fitted on valid splits, and a cache for every row; under
    ``ensemble.fit=forest`` their rule is fitted on those of all domains trained on.
    """
    shards, _ = evaluated(config, suite)
    both = _once([*shards, *_fitted_on(config, suite, subjects)])
    cached = config.ensemble.cache != "none"
    names = {member.name for member in subjects.members}
    needed = []
    for elm in subjects.elms:
        of_elm = both if cached or elm.name in names else shards
        needed.append((find_model(forest, elm.name), of_elm))
    return [*needed, *((model, both if cached else shards) for model in subjects.others)]


def _fitted_on(config: Config, suite: Suite, subjects: Subjects) -> list[Shard]:
    """List the valid splits that priors and the rule are fitted on."""
    _, valid = evaluated(config, suite)
    if config.ensemble.fit != "forest":
        return valid
    return [*valid, *(suite.shard(domain, "valid") for domain in sorted(subjects.trained_on))]


def _identity(config: Config, suite: Suite, subjects: Subjects, router: Json) -> Json:
    """Collect all that the numbers of an evaluation depend on."""
    shards, _ = evaluated(config, suite)
    read = [*shards, *_fitted_on(config, suite, subjects)]
    return standing.identity(config, suite, read, subjects, router)


def _refuse_trained_on(
    config: Config, forest: Forest, suite: Suite, subjects: Subjects, reporter: Reporter
) -> None:
    """Raise `UserError` if a document that is evaluated, or that something is fitted on, was
    trained on by a model that reads it.
    """
    shards, _ = evaluated(config, suite)
    every: list[ELM | Model] = [*subjects.elms, *subjects.others]
    held_out.refuse(forest, suite, shards, every, reporter)
    cached = config.ensemble.cache != "none"
    if cached or rule_of(config.ensemble).is_fitted:
        fitted_on = _once(_fitted_on(config, suite, subjects))
        readers = every if cached else subjects.members
        held_out.refuse(forest, suite, fitted_on, readers, reporter)


def _once(shards: list[Shard]) -> list[Shard]:
    """Copy the list `shards` without repetitions of the same tokens."""
    return list({shard.sha256: shard for shard in reversed(shards)}.values())[::-1]


def measure(
    config: Config,
    forest: Forest,
    suite: Suite,
    subjects: Subjects,
    *,
    by_text_alone: bool = False,
    reporter: Reporter = quiet,
) -> Json:
    """Compute {"domain/split": numbers} of the ensemble of the members, and of each model alone.

    What is not in the score cache is computed. With `by_text_alone` also what the ensemble gives
    where nothing is fitted on the domain that is evaluated.
    """
    members, trained_on = subjects.members, subjects.trained_on
    _require_commitment(config)
    shards, valid = evaluated(config, suite)
    refuse_own_data(config, suite, shards)
    _refuse_trained_on(config, forest, suite, subjects, reporter)
    route = domain_weights.route(config, forest, members, {suite.eos})
    with adapters.resident():
        for model, of_model in needed_scores(config, forest, suite, subjects):
            score_model(config, forest, model, of_model, reporter)
    subjects = _settled(config, forest, subjects)
    scores = score_cache.scores_of(config, forest)
    chosen = config.ensemble
    if chosen.fit == "forest":
        chosen = domain_weights.fit_on_training_domains(
            config, forest, suite, members, trained_on, reporter
        )
    by_text = None
    if by_text_alone:
        by_text = _by_text_alone(config, forest, suite, subjects, reporter)
    everyone = {elm.name: elm.card.sha256 for elm in subjects.elms}
    beside_them = {model.name: model.sha256 for model in subjects.others}
    names = [elm.name for elm in members]
    # A cache is fitted for every row by itself.
    fitted = everyone | beside_them if chosen.cache != "none" else {n: everyone[n] for n in names}
    entries = {}
    for shard, valid_shard in zip(shards, valid, strict=True):
        test = scored(config, scores, shard, everyone | beside_them)
        held_out = scored(config, scores, valid_shard, fitted)
        entries[f"{shard.domain}/{shard.split}"] = {
            "novel": shard.domain not in trained_on,
            **evaluate.shard_result(
                test.of(list(everyone)), names, held_out, chosen, route, by_text
            ),
            "models": {
                name: evaluate.row_alone(test, held_out, name, chosen) for name in beside_them
            },
        }
    return entries


def _require_commitment(config: Config) -> None:
    """Raise `UserError` if no context is long enough for the ensemble to commit in it."""
    chosen, window = config.ensemble, config.window
    if chosen.carry == "window" and chosen.commit >= window:
        raise UserError(
            f"ensemble.commit={chosen.commit}: a context has {window} tokens (score.window, "
            "trainer.seq_len), so nobody ever goes on alone: give fewer, or ensemble.carry=document"
        )


def _by_text_alone(
    config: Config, forest: Forest, suite: Suite, subjects: Subjects, reporter: Reporter
) -> EnsembleConfig | None:
    """Fit the rule once on the domains trained on, for a uniform prior: then of an evaluated domain
    nothing is read but the text itself, as where nobody knows which domain it is of.

    None where that is no question: a rule or top-k that needs a prior, one that has none, or not
    all domains trained on are evaluated, so that the fit would need other scores.
    """
    chosen = replace(config.ensemble, prior="uniform", fit="forest", cache="none")
    everywhere = subjects.trained_on <= set(config.eval.domains or suite.domains())
    is_question = (
        rule_of(chosen).needs_prior and not chosen.prior_top_k and len(subjects.members) > 1
    )
    if not (everywhere and is_question):
        return None
    blind = replace(config, ensemble=chosen)
    return domain_weights.fit_on_training_domains(
        blind, forest, suite, subjects.members, subjects.trained_on, reporter
    )


def scored(
    config: Config, scores: scoring.Scores, shard: Shard, models: dict[str, str]
) -> evaluate.Scored:
    """Read the scores of `models` {name: sha256} on a shard from the cache, and its tokens."""
    size = shard.head(config.score.max_tokens)
    logp_EST = np.stack([score_cache.read(scores, shard, sha256) for sha256 in models.values()])
    text, given = Text.of(shard, size[0]), shard.n_given(size[0])
    return evaluate.Scored(list(models), logp_EST, size, text, given)


def score_for_eval(config: Config, name: str, reporter: Reporter = quiet) -> None:
    """Compute what `eval_forest` will need of one ELM, so that many machines can share that
    work.
    """
    forest = Forest(config.forest_root)
    # Those that are named need not stand yet: an ELM is scored as soon as it does.
    members = config.ensemble.experts or [elm.name for elm in forest.experts()]
    _score_for_eval(config, forest, evaluated_suites(config), forest[name], members, reporter)


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
    cached = config.ensemble.cache != "none"
    if not (rule_of(config.ensemble).is_fitted or cached):
        return
    domains = (
        suite.domains() if config.ensemble.fit == "forest" else {shard.domain for shard in shards}
    )
    fitted_on = {suite.shard(domain, "valid").sha256: domain for domain in domains}
    for shard in shards:
        if shard.sha256 in fitted_on:
            raise UserError(
                f"ensemble.prior={config.ensemble.prior} and ensemble.rule={config.ensemble.rule} "
                f"{'and the cache ' if cached else ''}are fitted on "
                f"{fitted_on[shard.sha256]}/valid, so {shard.domain}/{shard.split}, of the same "
                "text, would be "
                f"measured on its own data: {remedy}"
            )


def _score_for_eval(
    config: Config, forest: Forest, suite: Suite, elm: ELM, members: list[str], reporter: Reporter
) -> None:
    shards, valid = evaluated(config, suite)
    cached = config.ensemble.cache != "none"
    needed = [*shards, *valid] if cached or elm.name in members else shards
    score_cache.score_missing(config, forest, elm.path, elm.card.sha256, needed, reporter)


def _shards(suite: Suite, domains: list[str], splits: list[str]) -> list[Shard]:
    return [suite.shard(domain, split) for domain in domains or suite.domains() for split in splits]
