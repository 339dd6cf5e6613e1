"""Weights of a forest's experts for a domain; scores that are missing are computed first."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.ensemble import posterior, priors
from btm.ensemble.router import Route
from btm.ensemble.rule import ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text
from btm.forest import ELM, Forest, Model, ledger
from btm.models import causal_lm, flops
from btm.report import Reporter, quiet
from btm.steps.score_cache import for_cards, read, score_missing, scores_of, stack
from btm.system.json_files import Json

# a smaller share of an average is dropped: such a parent would leave a debt and no trace
NEGLIGIBLE = 1e-3


def domain_weights(
    config: Config,
    forest: Forest,
    suite: Suite,
    domains: str | Sequence[str],
    candidates: list[ELM],
    method: str,
    reporter: Reporter = quiet,
) -> tuple[dict[str, float], str]:
    """Weigh ELMs for parameters meant for one domain, or for several that count the same.

    Returns {ELM: weight} and the words for what the weights were fitted by, and where.

    posterior: the prior fitted on the domain's valid split (BTM, section 2.3: its best); argmax:
    its likeliest expert alone; token: the weights of a plain mixture of that split's tokens
    (`posterior.token_prior`), which leave some to the others; uniform: the same to all.
    """
    config, names = for_cards(config), [elm.name for elm in candidates]
    if method == "uniform" or len(names) == 1:
        return dict.fromkeys(names, 1.0), "given"
    shards = [suite.shard(d, "valid") for d in ([domains] if isinstance(domains, str) else domains)]
    for elm in candidates:
        score_missing(config, forest, elm.path, elm.card.sha256, shards, reporter)
    kind = "token" if method == "token" else "em" if config.ensemble.prior == "em" else "cached"
    wanted = config.ensemble.prior_sequences or None  # of each domain, so that none counts for more
    scores = scores_of(config, forest)
    parts = []
    for shard in shards:
        tokens, _ = shard.head(config.score.max_tokens)
        parts.append(priors.whole_windows(stack(scores, shard, candidates), tokens)[:, :wanted])
    logp_EST = np.concatenate(parts, axis=1)
    # Of `priors`, not of the rule: a rule that needs no prior would leave all experts alike.
    fitted = replace(config.ensemble, prior=kind, prior_sequences=0)
    prior = np.exp(priors.fit_prior(logp_EST, fitted, logp_EST[0].size))
    where = ", ".join(f"{shard.domain}/valid ({shard.sha256[:16]})" for shard in shards)
    estimator = f"{fitted.prior} prior on {where}"
    if method == "argmax":
        return {names[int(prior.argmax())]: 1.0}, estimator
    return {
        name: float(p) for name, p in zip(names, prior, strict=True) if p >= NEGLIGIBLE
    }, estimator


def fit_for(
    config: Config,
    forest: Forest,
    suite: Suite,
    domain: str,
    members: list[Model],
    reporter: Reporter = quiet,
) -> tuple[dict[str, float], EnsembleConfig]:
    """Fit an ensemble on a domain's valid split.

    Returns {model: prior} of all `members`, and the settings with those fitted that were null. A
    rule that needs no prior fits nothing. A folder from outside has been scored before
    (btm/steps/beside.py).
    """
    rule = rule_of(config.ensemble)
    if not rule.needs_prior:
        return {model.name: 1.0 for model in members}, config.ensemble
    valid, scores = suite.shard(domain, "valid"), scores_of(config, forest)
    for model in members:
        score_missing(config, forest, model.path, model.sha256, [valid], reporter)
    scores_EST = np.stack([read(scores, valid, model.sha256) for model in members])
    tokens, _ = valid.head(config.score.max_tokens)
    log_prior_E = priors.fit_prior(scores_EST, replace(config.ensemble, top_k=0, commit=0), tokens)
    kept_E = posterior.top_k(log_prior_E, config.ensemble.prior_top_k)
    fitted = rule.fit([ValidScores(scores_EST, kept_E, tokens, Text.of(valid, tokens))])
    return {
        model.name: float(p) for model, p in zip(members, np.exp(log_prior_E), strict=True)
    }, fitted.ensemble


def route(
    config: Config, forest: Forest, members: Sequence[ELM | Model], ends: Collection[int]
) -> Route | None:
    """Open the route of these members over texts that `ends` end; None if the rule needs none."""
    if not rule_of(config.ensemble).needs_route:
        return None
    domains = {model.name: model.card.domains if model.card else [] for model in members}
    return Route.open(config, forest.tokenizer, domains, ends)


def fit_on_training_domains(
    config: Config,
    forest: Forest,
    suite: Suite,
    members: list[ELM],
    domains: set[str],
    reporter: Reporter = quiet,
) -> EnsembleConfig:
    """Fit the settings of the rule once, on the valid splits of the domains trained on.

    So of a novel domain nothing but its own prior is fitted. Returns the settings of the ensemble.
    """
    scores = scores_of(config, forest)
    shards = [suite.shard(domain, "valid") for domain in sorted(domains)]
    for elm in members:
        score_missing(config, forest, elm.path, elm.card.sha256, shards, reporter)
    rule, valid = rule_of(config.ensemble), []
    for shard in shards:
        scores_EST = stack(scores, shard, members)
        tokens, _ = shard.head(config.score.max_tokens)
        log_prior_E = rule.fit_prior(scores_EST, tokens)
        valid.append(ValidScores(scores_EST, log_prior_E, tokens, Text.of(shard, tokens)))
    return rule.fit(valid).ensemble


def cost(
    config: Config, elms: list[ELM], members: list[ELM], entries: Json | None = None
) -> ledger.Ledger:
    """Compute the cost of training `elms` and of predicting with `members`, for an evaluation.

    `entries` are its shards, where the experts that are run are counted if the ensemble commits.
    """
    card = elms[0].card
    if card.matrix_parameters:
        shape = flops.Shape(card.matrix_parameters, card.attention)
    else:  # a card from before the ledger
        shape = flops.Shape.of_config(causal_lm.load_config(elms[0].path))
    cards, theirs = [elm.card for elm in elms], [elm.card for elm in members]
    run = _experts_run(config.ensemble, len(members), entries or {})
    return ledger.entry(cards, theirs, shape, config.window, run)


def _experts_run(ensemble: EnsembleConfig, experts: int, entries: Json) -> float:
    """Count the experts that an ensemble runs for a token.

    A rule without a prior chooses its top-k for each context, so all of its experts are run.
    """
    counted = [entry for entry in entries.values() if "experts_run" in entry["ensemble"]]
    if counted:
        tokens = sum(entry["tokens"] for entry in counted)
        run = sum(entry["ensemble"]["experts_run"] * entry["tokens"] for entry in counted)
        return float(run / tokens)
    top_k = ensemble.prior_top_k if rule_of(ensemble).needs_prior else 0
    return min(top_k, experts) or experts
