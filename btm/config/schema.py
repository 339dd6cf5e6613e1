"""Every setting there is, as dataclasses; `conf/` gives them values and the CLI overrides those.

A value of the wrong type is refused when the configuration is composed; `validation.validate`
refuses values that make no sense, naming the key. Nothing here imports hydra, omegaconf or torch.
"""

from dataclasses import dataclass, field
from typing import Any

from btm.config.average import AverageConfig
from btm.config.bench import BenchConfig
from btm.config.card import CardConfig
from btm.config.choices import AVERAGE_WEIGHTS, BASELINES, BRANCH_METHODS
from btm.config.cluster import ClusterConfig, PaperConfig, RunConfig
from btm.config.commons import CommonsConfig
from btm.config.data import DataConfig, DiscoverConfig
from btm.config.distil import DistilConfig
from btm.config.ensemble import EnsembleConfig, EvalConfig, GenerateConfig, ScoreConfig
from btm.config.exchange import FORMATS, ExportConfig, ImportConfig, PushConfig
from btm.config.keys import key
from btm.config.load import LoadConfig
from btm.config.mix import MixConfig
from btm.config.moe import MoeConfig
from btm.config.reader import GROUNDS, ReaderConfig
from btm.config.registry import DiffConfig, LineageConfig, LsConfig, RemoveConfig
from btm.config.serve import ServeConfig
from btm.config.training import FairseqConfig, MergeConfig, ModelConfig, SeedConfig, TrainerConfig


@dataclass
class Config:
    """The whole of `conf/`, composed."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    fairseq: FairseqConfig = field(default_factory=FairseqConfig)
    seed: SeedConfig = field(default_factory=SeedConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    imports: ImportConfig = field(default_factory=ImportConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    push: PushConfig = field(default_factory=PushConfig)
    load: LoadConfig = field(default_factory=LoadConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    moe: MoeConfig = field(default_factory=MoeConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    run: RunConfig = field(default_factory=RunConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    card: CardConfig = field(default_factory=CardConfig)
    commons: CommonsConfig = field(default_factory=CommonsConfig)
    ls: LsConfig = field(default_factory=LsConfig)
    remove: RemoveConfig = field(default_factory=RemoveConfig)
    lineage: LineageConfig = field(default_factory=LineageConfig)
    diff: DiffConfig = field(default_factory=DiffConfig)
    forest: str | None = key(
        None, "folder of the forest; null: experts/<data.name>; of ls also a URL"
    )
    baseline: str | None = key(
        None,
        "baseline to grow instead of the forest, in <forest>-<baseline>; null: the forest itself",
        BASELINES,
    )
    expert: str | None = key(
        None,
        "ELM that the verb works on; for show, verify and diff also another model of the forest",
    )
    against: Any = key(
        None,
        "of diff: another ELM or an average (null: what the expert began with); of compare: "
        "[FOREST, …]",
    )
    models: list[str] = key(
        [], "models that eval and compare measure too: of the forest, FOREST:NAME or model folders"
    )
    averages: Any = key(
        None,
        "averages that eval and compare measure without writing them, {name: recipe}: a word for "
        "the weights, {elm: weight}, or {weights: …, method: …}",
    )
    tasks: list[str] = key(
        [],
        "tasks of lm-evaluation-harness that bench measures: names, groups, tags or YAML files; "
        "empty: btm, the five that are made of the forest's own test text",
    )
    on: str | None = key(
        None,
        "what a reader reads text by: the model of expert=NAME, of average=NAME, or all experts, "
        "mixed by the domain posterior; null: no model",
        GROUNDS,
    )
    domain: str | None = key(None, "domain of the expert or of the text; null: the expert's name")
    prompt: str | None = key(
        None, "text that generate continues; it needs no quotes but the shell's"
    )
    branch: str = key(
        "posterior", "how the parameters of a new ELM are initialised", BRANCH_METHODS
    )
    weights: Any = key(
        None, "weights of the parents, {elm: weight}; for average also a word", AVERAGE_WEIGHTS
    )
    parent: str | None = key(
        None,
        "ELM that branch=copy copies (null: the seed); of import: what the model was trained from",
    )
    format: str = key("hf", "format of what is imported or exported; hf: Hugging Face", FORMATS)
    to: str | None = key(
        None, "folder or file that export, report or watch writes; of push: the URL of a forest"
    )

    @property
    def base_root(self) -> str:
        """The folder of the forest that a baseline is compared with."""
        return self.forest or f"experts/{self.data.name}"

    @property
    def discover_target(self) -> str:
        """The folder that discovery writes."""
        return self.discover.out or f"discovered/{self.data.name}"

    @property
    def forest_root(self) -> str:
        """The forest's folder; a baseline's is beside it."""
        return f"{self.base_root}-{self.baseline}" if self.baseline else self.base_root

    def seed_steps(self, training_domains: list[str]) -> int:
        """Return the steps of the seed phase.

        Where none are given, as many as the experts of the first round have together: half of the
        training, as in the paper (BTM, section 3.1) and as our own tables have it (docs/paper.md).
        Without run.domains and run.rounds, that round has an expert for each of the
        `training_domains` of the suite.
        """
        if self.seed.steps is not None:
            return self.seed.steps
        first = self.run.rounds[0] if self.run.rounds else self.run.domains or training_domains
        return self.trainer.steps * max(1, len(first))

    @property
    def window(self) -> int:
        """Tokens of context when scoring."""
        return self.score.window or self.trainer.seq_len

    @property
    def stride(self) -> int:
        """Tokens from one window to the next when scoring; 0 where they do not overlap."""
        return self.score.stride if self.score.stride < self.window else 0
