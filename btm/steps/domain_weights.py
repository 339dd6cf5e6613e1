"""From a forest to what its experts believe: scores where they are missing, and weights for a domain."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.config.schema import Config, EnsembleConfig
from btm.data.shards import Shard, Suite
from btm.ensemble import mix, posterior
from btm.ensemble import score as scoring
from btm.ensemble.router import Route
from btm.errors import UserError
from btm.forest import ELM, Branch, Forest, Model, ledger
from btm.models import causal_lm, weights
from btm.report import Reporter, quiet
from btm.system import lease

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEGLIGIBLE = 1e-3  # a smaller share of an average is dropped: such a parent would leave a debt and no trace


def domain_weights(
    config: Config,
    forest: Forest,
    suite: Suite,
    domains: str | Sequence[str],
    candidates: list[ELM],
    method: str,
    reporter: Reporter = quiet,
) -> tuple[dict[str, float], str]:
    """Return {ELM: weight} for parameters meant for a domain, or for several alike, and the estimator they came from.

    posterior: the prior fitted on the domain's valid split (BTM, section 2.3: its best); argmax: its
    likeliest expert alone; token: what each is worth in a plain mixture of that split's tokens
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
    logp_EST = np.concatenate([stack(scores, shard, candidates)[:, :wanted] for shard in shards], axis=1)
    # A router has no prior of its own.
    fitted = replace(config.ensemble, rule="bayes", prior=kind, prior_sequences=0)
    prior = np.exp(mix.fit_prior(logp_EST, fitted))
    where = ", ".join(f"{shard.domain}/valid ({shard.sha256[:16]})" for shard in shards)
    estimator = f"{fitted.prior} prior on {where}"
    if method == "argmax":
        return {names[int(prior.argmax())]: 1.0}, estimator
    return {name: float(p) for name, p in zip(names, prior, strict=True) if p >= NEGLIGIBLE}, estimator


def fit_for(
    config: Config,
    forest: Forest,
    suite: Suite,
    domain: str,
    members: list[Model],
    reporter: Reporter = quiet,
) -> tuple[dict[str, float], EnsembleConfig]:
    """Return what `ensemble` fits on a domain's valid split: {model: prior} of all `members`, and α and β or a gate.

    A router asks for none of these. A folder from outside has been scored before (btm/steps/beside.py).
    """
    if config.ensemble.rule == "router":
        return {model.name: 1.0 for model in members}, config.ensemble
    valid, scores = suite.shard(domain, "valid"), scores_of(config, forest)
    for model in members:
        score_missing(config, forest, model.path, model.sha256, [valid], reporter)
    scores_EST = np.stack([read(scores, valid, model.sha256) for model in members])
    log_prior_E = mix.fit_prior(scores_EST, replace(config.ensemble, top_k=0))
    kept_E = posterior.top_k(log_prior_E, config.ensemble.top_k)
    tokens, _ = valid.head(config.score.max_tokens)
    fitted = mix.fit_rule([scores_EST], [kept_E], config.ensemble, [tokens], [valid.tokens])
    return {model.name: float(p) for model, p in zip(members, np.exp(log_prior_E), strict=True)}, fitted


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
    """Return the ensemble with its α and β, or its gate, fitted once, on the valid splits of the domains trained on.

    So nothing of a novel domain is used but the prior of its own.
    """
    scores = scores_of(config, forest)
    shards = [suite.shard(domain, "valid") for domain in sorted(domains)]
    for elm in members:
        score_missing(config, forest, elm.path, elm.card.sha256, shards, reporter)
    valid = [stack(scores, shard, members) for shard in shards]
    priors = [mix.fit_prior(scores_EST, config.ensemble) for scores_EST in valid]
    tokens = [shard.head(config.score.max_tokens)[0] for shard in shards]
    ids = [np.asarray(shard.tokens) for shard in shards]
    return mix.fit_rule(valid, priors, config.ensemble, tokens, ids)


def cost(config: Config, elms: list[ELM], members: list[ELM]) -> dict[str, Any]:
    """Return what training `elms` and predicting with `members` takes, for an evaluation.

    A router chooses its top-k for each context, so all of its experts are run (btm/ensemble/generate.py).
    """
    card = elms[0].card
    if card.matrix_parameters:
        shape = ledger.Shape(card.matrix_parameters, card.attention)
    else:  # a card from before the ledger
        shape = ledger.Shape.of_config(causal_lm.load_config(elms[0].path))
    top_k = 0 if config.ensemble.rule == "router" else config.ensemble.top_k
    cards, theirs = [elm.card for elm in elms], [elm.card for elm in members]
    return ledger.entry(cards, theirs, shape, config.window, top_k)


def check_context(config: Config, model: dict[str, Any]) -> None:
    """Raise `UserError` if a model (its config.json) has no positions for the sequences asked for."""
    limit = causal_lm.context_limit(model)
    for key, length in (("trainer.seq_len", config.trainer.seq_len), ("score.window", config.window)):
        if limit is not None and length > limit:
            raise UserError(f"{key}={length}: the model has positions for {limit} tokens")


def valid_nats(
    config: Config, forest: Forest, branch: Branch, suite: Suite, reporter: Reporter
) -> dict[str, Any]:
    """Return the losses that decide a merge: the branch's and its parents', on the branch's valid split."""
    valid = suite.shard(branch.domains[0], "valid")
    scores = scores_of(config, forest)
    tokens, _ = valid.head(config.score.max_tokens)
    sha256 = weights.sha256(branch.path)
    score_missing(config, forest, branch.path, sha256, [valid], reporter)
    nats = {}
    for name in branch.parents:
        parent = forest[name]
        score_missing(config, forest, parent.path, parent.card.sha256, [valid], reporter)
        nats[name] = scoring.mean_nats(read(scores, valid, parent.card.sha256), tokens)
    ours = scoring.mean_nats(read(scores, valid, sha256), tokens)
    return {"valid_nats": ours, "parent_valid_nats": nats}


def scores_of(config: Config, forest: Forest) -> scoring.Scores:
    """Return the forest's score cache for the window and the head of shards that `config` asks for."""
    return scoring.Scores(forest.root / "scores", config.window, config.score.max_tokens)


def unscored(config: Config, forest: Forest, sha256: str, shards: list[Shard]) -> list[Shard]:
    """Return those of `shards` on which the forest's cache has no scores of these weights."""
    scores = scores_of(config, forest)
    return [shard for shard in shards if scores.read(shard, sha256) is None]


def score_missing(
    config: Config,
    forest: Forest,
    folder: Path,
    sha256: str,
    shards: list[Shard],
    reporter: Reporter,
    *,
    model: "PreTrainedModel | None" = None,
    called: str | None = None,
) -> list[Path]:
    """Score the model in `folder` on those of `shards` where its scores are missing.

    `model` is that model where it is loaded already, in float32. It is reported as `called`, or by its folder's name.
    """
    scores = scores_of(config, forest)
    missing = unscored(config, forest, sha256, shards)
    if not missing:
        return []
    import torch

    from btm.train import kernels

    device = causal_lm.pick_device(config.trainer.device)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    check_context(config, causal_lm.read_config(folder / "config.json"))
    if model is None:
        model = causal_lm.load_model(folder, device, dtype=torch.float32)
    model = model.to(device).eval()
    total = sum(shard.head(config.score.max_tokens)[0] for shard in missing)
    paths = []
    with kernels.waiting.considerate(), reporter.scoring(called or lease.name_of(folder), total) as report:
        for shard in missing:
            paths.append(
                scoring.score(model, shard, scores, sha256, batch_size=config.score.batch_size, report=report)
            )
    return paths


def stack(scores: scoring.Scores, shard: Shard, elms: list[ELM]) -> NDArray[np.float32]:
    """Return the scores of several ELMs, shape (E, S, T)."""
    return np.stack([read(scores, shard, elm.card.sha256) for elm in elms])


def read(scores: scoring.Scores, shard: Shard, sha256: str) -> NDArray[np.float32]:
    """Return a model's scores, shape (S, T), computed before; `UserError` if they are gone."""
    logp = scores.read(shard, sha256)
    if logp is None:
        raise UserError(f"{scores.path(shard, sha256)} vanished while it was needed; run the command again")
    return logp
