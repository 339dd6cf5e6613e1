"""Settings of the ensemble: scores, rule and prior, evaluation, generation."""

import math
from dataclasses import dataclass

from btm.config.checks import (
    check_choice,
    check_least,
    check_models,
    check_name,
    check_names,
    check_path,
    require,
)
from btm.config.choices import SPLITS
from btm.config.keys import key
from btm.errors import UserError

RULES = ("bayes", "simple", "last_token", "fixed_share", "tracking", "gated", "router")
FITS = ("domain", "forest")
CARRIES = ("window", "document")
CACHES = ("none", "ngram")
PRIORS = ("uniform", "updating", "cached", "em", "token")
# of the rule gated: the prior's power and one for each of its features (btm/ensemble/gate/rule.py)
GATE_NUMBERS = 8


@dataclass
class ScoreConfig:
    """How token log-probabilities are computed."""

    window: int = key(0, "context, in tokens; 0: trainer.seq_len")
    stride: int = key(
        0,
        "tokens from one window to the next in score, eval and compare; fewer than the window's "
        "give tokens more context, at more passes; 0: no overlap",
    )
    batch_size: int = key(32, "windows per forward pass")
    max_tokens: int = key(0, "whole documents up to this many tokens of each shard; 0: all")
    domains: list[str] = key([], "domains that are scored; empty: every prepared domain")
    splits: list[str] = key(["valid", "test"], "splits that are scored", SPLITS)
    experts: list[str] = key([], "ELMs that score; empty: every ELM")


@dataclass
class EnsembleConfig:
    """How the experts are weighed: a rule (btm/ensemble/rules.py), its prior, and how many experts
    are kept.
    """

    rule: str = key("bayes", "how the experts are weighed as a text goes on", RULES)
    alpha: float | None = key(
        None,
        "fraction of the prior mixed in at each token, of tracking and fixed_share; null: fitted",
    )
    beta: float | None = key(None, "power of the weights at each token, of tracking; null: fitted")
    gate: list[float] | None = key(None, "parameters θ of gated, 8 numbers; null: fitted")
    router: str | None = key(
        None,
        "file or folder of the router that discovery wrote, of the rule router; null: data.root",
    )
    temperature: float | None = key(
        None, "temperature of the router's softmax, of the rule router; null: the router's own"
    )
    fit: str = key(
        "domain",
        "valid text that parameters are fitted on: the evaluated domain's own, or once on "
        "all training domains'",
        FITS,
    )
    prior: str = key("cached", "how the prior over experts is estimated", PRIORS)
    carry: str = key(
        "window",
        "what an ensemble remembers: each window is begun anew, as by one model, or each document",
        CARRIES,
    )
    cache: str = key(
        "none",
        "n-gram cache (unigram to trigram) that is mixed into every row of eval and compare, with "
        "weights fitted on valid; it begins anew as `carry` says",
        CACHES,
    )
    decay: float = key(0.3, "factor λ of the moving average of the priors cached and updating")
    top_k: int = key(
        0,
        "experts that are kept, by prior, by router for each context, or by what they made of the "
        "first `commit` tokens; 0: all",
    )
    commit: int = key(
        0,
        "tokens of a context that all members read before the top_k best by posterior go on alone; "
        "0: top_k keeps by prior",
    )
    recall: bool = key(
        False,
        "whether experts that `commit` left out replay the text and come back where they are "
        "expected to do better than those that go on",
    )
    experts: list[str] = key(
        [],
        "members of the ensemble; of generate also averages, FOREST:NAME and model folders; "
        "empty: every ELM trained on one domain",
    )
    prior_sequences: int = key(100, "valid sequences that the prior is fitted on; 0: all")

    @property
    def settings(self) -> tuple[float, float]:
        """α and β; one that is open stands at the value that changes nothing."""
        return self.alpha or 0.0, 1.0 if self.beta is None else self.beta

    @property
    def prior_top_k(self) -> int:
        """The experts that are kept before any text is read; 0: all."""
        return 0 if self.commit else self.top_k


@dataclass
class EvalConfig:
    """Which shards are evaluated, and the name of the result."""

    name: str | None = key(None, "name of the result; null: the forest's")
    split: str = key("test", "split that is evaluated", SPLITS)
    domains: list[str] = key([], "domains that are evaluated; empty: every prepared domain")
    suites: list[str] = key(
        [], "suites that eval, score and compare read; empty: all that the forest records"
    )


@dataclass
class GenerateConfig:
    """How the ensemble goes on with a prompt."""

    tokens: int = key(64, "largest number of new tokens")
    temperature: float = key(1.0, "temperature of sampling; 0: always the most likely token")
    seed: int = key(0, "seed of sampling")


def check_score(score: ScoreConfig) -> None:
    """Raise `UserError` naming the first key of `score` whose value makes no sense."""
    check_names(score.domains, "score.domains")
    check_models(score.experts, "score.experts")
    check_least(score, "score", 1, "batch_size")
    check_least(score, "score", 0, "window", "stride", "max_tokens")
    require(
        score.window != 1,
        "score.window",
        score.window,
        "wanted 2 or more, or 0 for trainer.seq_len",
    )
    for split in score.splits:
        check_choice(split, "score.splits", SPLITS)


def check_ensemble(ensemble: EnsembleConfig) -> None:
    """Raise `UserError` naming the first key of `ensemble` whose value makes no sense."""
    check_path(ensemble.router, "ensemble.router")
    check_models(ensemble.experts, "ensemble.experts")
    _check_ensemble_numbers(ensemble)
    check_choice(ensemble.prior, "ensemble.prior", PRIORS)
    check_choice(ensemble.rule, "ensemble.rule", RULES)
    if ensemble.carry.lower() in ("true", "false"):
        raise UserError(
            f"ensemble.carry={ensemble.carry.lower()}: it names what is remembered: give window "
            "(what false was) or document"
        )
    check_choice(ensemble.carry, "ensemble.carry", CARRIES)
    check_choice(ensemble.cache, "ensemble.cache", CACHES)
    if ensemble.rule == "gated" and ensemble.prior == "updating":
        raise UserError(
            "ensemble.prior=updating: ensemble.rule=gated, the default, follows the text itself: "
            "give ensemble=updating"
        )
    if ensemble.carry == "document" and ensemble.prior == "updating":
        raise UserError(
            "ensemble.carry=document: ensemble.prior=updating moves from one document to the next "
            "by itself: give ensemble.carry=window, or another ensemble"
        )
    check_choice(ensemble.fit, "ensemble.fit", FITS)
    _check_commit(ensemble)
    if ensemble.prior_top_k and ensemble.prior == "uniform" and ensemble.rule != "router":
        raise UserError(
            f"ensemble.top_k={ensemble.top_k}: a uniform prior favours no expert: give "
            "ensemble=cached or another fitted prior, or name them: ensemble.experts=[…]"
        )
    if ensemble.rule == "router":
        _check_router(ensemble)
    else:
        _check_no_router(ensemble)


def _check_commit(ensemble: EnsembleConfig) -> None:
    """Raise `UserError` if a commitment has nobody to commit to, or a rule that cannot."""
    given = f"ensemble.commit={ensemble.commit}"
    if not ensemble.commit:
        why = "nobody is left out that could come back: give ensemble.commit=N ensemble.top_k=K"
        require(not ensemble.recall, "ensemble.recall", "true", why)
        return
    if not ensemble.top_k:
        raise UserError(f"{given}: give ensemble.top_k=K, the experts that go on alone")
    if ensemble.rule == "router":
        raise UserError(
            f"{given}: ensemble.rule=router chooses its top_k by the words of the text, without "
            "reading it with every expert: leave ensemble.commit out, or give another ensemble"
        )
    if ensemble.prior == "updating":
        raise UserError(
            f"{given}: ensemble.prior=updating follows what every expert makes of every window: "
            "give another ensemble"
        )


def _check_ensemble_numbers(ensemble: EnsembleConfig) -> None:
    check_least(ensemble, "ensemble", 0, "top_k", "commit", "prior_sequences")
    alpha, beta = ensemble.alpha, ensemble.beta
    require(alpha is None or 0 <= alpha <= 1, "ensemble.alpha", alpha, "wanted [0, 1], or null")
    # β = 0 would give all weight back to experts that top_k left out.
    require(beta is None or 0 < beta <= 1, "ensemble.beta", beta, "wanted (0, 1], or null")
    theta, wanted = ensemble.gate, GATE_NUMBERS
    fits = theta is None or (len(theta) == wanted and all(map(math.isfinite, theta)))
    require(fits, "ensemble.gate", theta, f"wanted {wanted} numbers, or null")
    require(0 < ensemble.decay <= 1, "ensemble.decay", ensemble.decay, "wanted (0, 1]")


def _check_no_router(ensemble: EnsembleConfig) -> None:
    """Raise `UserError` if a rule that does not route is given a setting of the router."""
    wanted = f"ensemble.rule={ensemble.rule} has none: give ensemble=router"
    for word in ("router", "temperature"):
        value = getattr(ensemble, word)
        require(value is None, f"ensemble.{word}", value, wanted)


def _check_router(ensemble: EnsembleConfig) -> None:
    """Raise `UserError` if the rule router is given something to fit."""
    why = "ensemble.rule=router weighs by the words of the text alone"
    prior, warmth = ensemble.prior, ensemble.temperature
    require(prior == "uniform", "ensemble.prior", prior, f"{why}: give ensemble=router")
    require(ensemble.fit == "domain", "ensemble.fit", ensemble.fit, f"{why}: it has nothing to fit")
    for word in ("alpha", "beta", "gate"):
        value = getattr(ensemble, word)
        require(value is None, f"ensemble.{word}", value, f"{why}: leave it null")
    is_positive = warmth is None or 0 < warmth < math.inf
    require(is_positive, "ensemble.temperature", warmth, "wanted more than 0, or null")


def check_eval(evaluation: EvalConfig) -> None:
    """Raise `UserError` naming the first key of `eval` whose value makes no sense."""
    if evaluation.name is not None:
        check_name(evaluation.name, "eval.name")
    check_names(evaluation.domains, "eval.domains")
    check_names(evaluation.suites, "eval.suites")
    check_choice(evaluation.split, "eval.split", SPLITS)


def check_generate(generate: GenerateConfig) -> None:
    """Raise `UserError` naming the first key of `generate` whose value makes no sense."""
    check_least(generate, "generate", 1, "tokens")
    check_least(generate, "generate", 0, "temperature")
