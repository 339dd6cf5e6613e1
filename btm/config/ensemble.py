"""Settings of the ensemble: scores, rule and prior, evaluation, generation."""

import math
from dataclasses import dataclass, field

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
from btm.errors import UserError

RULES = ("bayes", "simple", "last_token", "fixed_share", "tracking", "gated", "router")
FITS = ("domain", "forest")
PRIORS = ("uniform", "updating", "cached", "em", "token")
# of the rule gated: the prior's power and one for each of its features (btm/ensemble/gate/rule.py)
GATE_NUMBERS = 8


@dataclass
class ScoreConfig:
    """How token log-probabilities are computed."""

    window: int = 0  # tokens of context; 0: trainer.seq_len
    batch_size: int = 32  # windows per forward pass
    max_tokens: int = 0  # whole documents up to this many tokens of a shard; 0: all
    domains: list[str] = field(default_factory=list)  # empty: every prepared domain
    splits: list[str] = field(default_factory=lambda: ["valid", "test"])
    experts: list[str] = field(default_factory=list)  # empty: every ELM


@dataclass
class EnsembleConfig:
    """How the experts are weighed: a rule (btm/ensemble/rules.py), its prior, and how many experts
    are kept.
    """

    # bayes | simple | last_token | fixed_share | tracking | gated (btm/gate) | router
    # (btm/ensemble/router.py)
    rule: str = "bayes"
    # of tracking and fixed_share: share of the prior in each step; null: fitted
    alpha: float | None = None
    beta: float | None = None  # of tracking: power of the weights in each step; null: fitted
    # θ of gated: 8 numbers (btm/ensemble/gate/rule.py); null: fitted
    gate: list[float] | None = None
    router: str | None = None  # what discovery wrote, for the rule router; null: data.root
    temperature: float | None = None  # of its softmax; null: the router's own
    # these on the shard's own valid split | forest: once, on the training domains'
    fit: str = "domain"
    prior: str = "cached"  # uniform | updating | cached | em | token
    carry: bool = False  # a window takes up the belief that the one before it ended with
    decay: float = 0.3  # λ of the moving average behind `cached` and `updating`
    top_k: int = 0  # experts kept, by prior, or by router for each context; 0: all
    # Empty: every ELM trained on one domain. For generate also averages, FOREST:NAME and model
    # folders
    experts: list[str] = field(default_factory=list)
    prior_sequences: int = 100  # valid sequences that the prior is fitted on; 0: all

    @property
    def settings(self) -> tuple[float, float]:
        """α and β; one that is open stands at the value that changes nothing."""
        return self.alpha or 0.0, 1.0 if self.beta is None else self.beta


@dataclass
class EvalConfig:
    """Which shards are evaluated, and the name of the result."""

    name: str | None = None  # null: the forest's
    split: str = "test"
    domains: list[str] = field(default_factory=list)  # empty: every prepared domain
    suites: list[str] = field(
        default_factory=list
    )  # of eval, score and compare; empty: all that the forest records


@dataclass
class GenerateConfig:
    """How the ensemble goes on with a prompt."""

    tokens: int = 64  # new ones, at most
    temperature: float = 1.0  # 0: always the likeliest
    seed: int = 0


def check_score(score: ScoreConfig) -> None:
    """Raise `UserError` naming the first key of `score` whose value makes no sense."""
    check_names(score.domains, "score.domains")
    check_models(score.experts, "score.experts")
    check_least(score, "score", 1, "batch_size")
    check_least(score, "score", 0, "window", "max_tokens")
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
    if ensemble.rule == "gated" and ensemble.prior == "updating":
        raise UserError(
            "ensemble.prior=updating: ensemble.rule=gated, the default, follows the text itself: "
            "give ensemble=updating"
        )
    check_choice(ensemble.fit, "ensemble.fit", FITS)
    if ensemble.rule == "router":
        _check_router(ensemble)
    else:
        _check_no_router(ensemble)


def _check_ensemble_numbers(ensemble: EnsembleConfig) -> None:
    check_least(ensemble, "ensemble", 0, "top_k", "prior_sequences")
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
    for key in ("router", "temperature"):
        value = getattr(ensemble, key)
        require(value is None, f"ensemble.{key}", value, wanted)


def _check_router(ensemble: EnsembleConfig) -> None:
    """Raise `UserError` if the rule router is given something to fit."""
    why = "ensemble.rule=router weighs by the words of the text alone"
    prior, warmth = ensemble.prior, ensemble.temperature
    require(prior == "uniform", "ensemble.prior", prior, f"{why}: give ensemble=router")
    require(ensemble.fit == "domain", "ensemble.fit", ensemble.fit, f"{why}: it has nothing to fit")
    for key in ("alpha", "beta", "gate"):
        value = getattr(ensemble, key)
        require(value is None, f"ensemble.{key}", value, f"{why}: leave it null")
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
