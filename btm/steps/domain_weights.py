"""From a forest to what its experts believe: scores where they are missing, and weights for a
domain.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.ensemble import fit, posterior
from btm.ensemble.router import Route
from btm.forest import ELM, Forest, Model, ledger
from btm.models import causal_lm, flops
from btm.report import Reporter, quiet
from btm.steps.score_cache import read, score_missing, scores_of, stack

if TYPE_CHECKING:
    pass

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
    """Return {ELM: weight} for parameters meant for a domain, or for several alike, and the
    estimator they came from.

    posterior: the prior fitted on the domain's valid split (BTM, section 2.3: its best); argmax:
    its likeliest expert alone; token: what each is worth in a plain mixture of that split's tokens
    (`posterior.token_prior`), which leaves some weight to the others; uniform: all alike.
    """
    names = [elm.name for elm in candidates]
    if method == "uniform" or len(names) == 1:
        return dict.fromkeys(names, 1.0), "given"
    shards = [suite.shard(d, "valid") for d in ([domains] if isinstance(domains, str) else domains)]
    for elm in candidates:
        score_missing(config, forest, elm.path, elm.card.sha256, shards, reporter)
    kind = "token" if method == "token" else "em" if config.ensemble.prior == "em" else "cached"
    wanted = config.ensemble.prior_sequences or None  # of each domain, so that none counts for more
    scores = scores_of(config, forest)
    logp_EST = np.concatenate(
        [stack(scores, shard, candidates)[:, :wanted] for shard in shards], axis=1
    )
    # A router has no prior of its own.
    fitted = replace(config.ensemble, rule="bayes", prior=kind, prior_sequences=0)
    prior = np.exp(fit.fit_prior(logp_EST, fitted))
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
    """Return what `ensemble` fits on a domain's valid split: {model: prior} of all `members`, and α
    and β or a gate.

    A router asks for none of these. A folder from outside has been scored before
    (btm/steps/beside.py).
    """
    if config.ensemble.rule == "router":
        return {model.name: 1.0 for model in members}, config.ensemble
    valid, scores = suite.shard(domain, "valid"), scores_of(config, forest)
    for model in members:
        score_missing(config, forest, model.path, model.sha256, [valid], reporter)
    scores_EST = np.stack([read(scores, valid, model.sha256) for model in members])
    log_prior_E = fit.fit_prior(scores_EST, replace(config.ensemble, top_k=0))
    kept_E = posterior.top_k(log_prior_E, config.ensemble.top_k)
    tokens, _ = valid.head(config.score.max_tokens)
    fitted = fit.fit_rule([scores_EST], [kept_E], config.ensemble, [tokens], [valid.tokens])
    return {
        model.name: float(p) for model, p in zip(members, np.exp(log_prior_E), strict=True)
    }, fitted


def route(config: Config, forest: Forest, members: Sequence[ELM | Model], eos: int) -> Route | None:
    """Return the route of the rule `router` for these members, None under another rule."""
    if config.ensemble.rule != "router":
        return None
    domains = {model.name: model.card.domains if model.card else [] for model in members}
    return Route.open(config, forest.tokenizer, domains, eos)


def fit_on_training_domains(
    config: Config,
    forest: Forest,
    suite: Suite,
    members: list[ELM],
    domains: set[str],
    reporter: Reporter = quiet,
) -> EnsembleConfig:
    """Return the ensemble with its α and β, or its gate, fitted once, on the valid splits of the
    domains trained on.

    So nothing of a novel domain is used but the prior of its own.
    """
    scores = scores_of(config, forest)
    shards = [suite.shard(domain, "valid") for domain in sorted(domains)]
    for elm in members:
        score_missing(config, forest, elm.path, elm.card.sha256, shards, reporter)
    valid = [stack(scores, shard, members) for shard in shards]
    priors = [fit.fit_prior(scores_EST, config.ensemble) for scores_EST in valid]
    tokens = [shard.head(config.score.max_tokens)[0] for shard in shards]
    ids = [np.asarray(shard.tokens) for shard in shards]
    return fit.fit_rule(valid, priors, config.ensemble, tokens, ids)


def cost(config: Config, elms: list[ELM], members: list[ELM]) -> ledger.Ledger:
    """Return what training `elms` and predicting with `members` takes, for an evaluation.

    A router chooses its top-k for each context, so all of its experts are run
    (btm/ensemble/generate.py).
    """
    card = elms[0].card
    if card.matrix_parameters:
        shape = flops.Shape(card.matrix_parameters, card.attention)
    else:  # a card from before the ledger
        shape = flops.Shape.of_config(causal_lm.load_config(elms[0].path))
    top_k = 0 if config.ensemble.rule == "router" else config.ensemble.top_k
    cards, theirs = [elm.card for elm in elms], [elm.card for elm in members]
    return ledger.entry(cards, theirs, shape, config.window, top_k)
