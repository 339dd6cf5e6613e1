"""Settings of the ensemble: scores, rule and prior, evaluation, generation."""

from dataclasses import dataclass, field


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
