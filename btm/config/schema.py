"""Every setting there is, as dataclasses; `conf/` gives them values and the CLI overrides those.

A value of the wrong type is refused when the configuration is composed; `validate` refuses values
that make no sense, naming the key. Nothing here imports hydra, omegaconf or torch.
"""

from dataclasses import dataclass, field
from typing import Any

from btm.config import validation
from btm.config.checks import fill
from btm.config.registry import DiffConfig, LineageConfig, LsConfig, RemoveConfig


@dataclass
class DataConfig:
    """Where text comes from and how it becomes tokens."""

    name: str = "demo"  # the suite: data/<name>/
    root: str | None = None  # a folder of domains; null: the suite that ships with btm
    domain: str | None = None  # `root` is one domain, a file or a folder, and this is its name
    made_by: str = ""  # the command that builds `root`, named where that folder is missing
    out: str = "data"  # where prepared suites live
    tokenizer: str | None = None  # a Hugging Face tokenizer folder; null: train one on the suite
    vocab_size: int = 8192  # of the tokenizer that is trained
    special_tokens: str = "endoftext"  # of that one: <|endoftext|> | fairseq: <s> <pad> </s> <unk>
    tokenizer_bytes: int = 20_000_000  # how much text, balanced over domains, it is trained on
    text_column: str = "text"  # of JSON lines and of parquet
    valid_fraction: float = 0.05  # of the documents, where the source has no splits of its own
    test_fraction: float = 0.05
    workers: int = 0  # processes that tokenize; 0: one per core


@dataclass
class ModelConfig:
    """An architecture of `transformers`: the fields of its config.json."""

    name: str = "pico"
    file: str | None = None  # a config.json; overrides `config`
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainerConfig:
    """How one ELM is trained. A step is one optimizer update."""

    backend: str = "btm"  # or fairseq: fairseq-train, in a process of its own (docs/fairseq.md)
    steps: int = 1000
    batch_size: int = 16  # sequences per step
    micro_batch_size: int = 0  # sequences per forward pass (gradient accumulation); 0: all of them
    seq_len: int = 256  # tokens per sequence
    optimizer: str = "adamw"  # or adamw8bit: its moments are quantised to 8 bits (btm[int8])
    embedding_bits: int = 8  # of the moments of embeddings under adamw8bit: 8 | 32
    offload: bool = False  # moments in the host's memory; the optimizer steps there
    kernels: bool = True  # loss and attention of btm/kernels: the plain ones' results, up to rounding, sooner
    compile: str = "auto"  # the layers, by torch: always | never | auto: by the clock, if it pays back
    write_behind: bool = True  # checkpoints are copied and written while the training goes on
    gradient_checkpointing: bool = False  # activations are computed again in the backward pass, not kept
    lr: float | int | str | None = (
        None  # peak; null: by the model's size (btm/train/schedule.py) | find: by a short test
    )
    warmup: float = 0.08  # fraction of the steps of the schedule
    decay: str = "cosine"  # constant | cosine | linear | polynomial | wsd: constant, then linear
    decay_power: float = 1.0  # of polynomial
    decay_share: float = 0.1  # of wsd: fraction of the steps of the schedule that are linear
    final_lr: float = 0.1  # fraction of lr at the end of the schedule
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.1
    clip: float = 1.0  # norm of the gradient; 0: no clipping
    carry: str = (
        "fresh"  # begin a schedule anew | continue the parent's, and its optimizer | auto: where possible
    )
    precision: str = "auto"  # auto | fp32 | bf16 (autocast; weights stay float32)
    device: str = "auto"  # auto | cpu | cuda | cuda:1 …
    parallel: str = "ddp"  # each of cluster.*.gpus_per_expert processes holds a model | fsdp: a share of it
    threads: int = 0  # CPU threads, of all processes together; 0: as torch finds them
    seed: int = 0  # of initialisation and data order
    valid_every: int = 0  # steps between validations; 0: at the end only
    valid_tokens: int = 16_384  # tokens of the valid split that a validation reads
    checkpoint_every: int = 200  # steps
    log_every: int = 10  # steps
    mirrors: list[str] = field(default_factory=list)  # tensorboard | wandb | mlflow
    delta_density: float = 1.0  # share of parameters that may differ from the parents'; 1: dense
    delta_every: int = 0  # steps between prunings of these; 0: a hundredth of the steps
    delta_prune: float = 0.5  # share pruned at first, falling as a cosine to a hundredth of that
    delta_mask: str = "momentum"  # momentum | normalised (docs/sparse.md) | random: it stays as drawn


@dataclass
class FairseqConfig:
    """The fairseq that trains, where trainer.backend=fairseq."""

    python: str | None = None  # the interpreter that has it; null: the one that runs btm
    options: dict[str, Any] = field(default_factory=dict)  # more of fairseq-train's: {fp16: true}


@dataclass
class SeedConfig:
    """The seed phase: what every expert descends from."""

    name: str = "seed"
    source: str | None = None  # `seed.from=DIR`: a Hugging Face model folder instead of training
    domains: list[str] = field(default_factory=list)  # of the mix; empty: all training domains
    steps: int | None = (
        None  # null: half of the training; 0: no seed phase, experts branch from random parameters
    )
    lr: float | None = None  # peak; null: as trainer.lr says
    grow_batch: int = 1  # a step after seed.grow_after has so many times trainer.batch_size sequences
    grow_after: int = 0  # steps


@dataclass
class MergeConfig:
    """When an expert may enter the forest."""

    force: bool = False  # also when it is worse than its parents on its own valid split


@dataclass
class ImportConfig:
    """A model that was made elsewhere, and comes in."""

    source: str | None = None  # `from=DIR`: its folder
    legacy: bool = False  # also read pickled weights (pytorch_model.bin), in a process with limits


@dataclass
class ExportConfig:
    """A model that goes out."""

    dtype: str | None = None  # fp32 | bf16 | fp16; null: as it is stored
    shard_gb: float = 0.0  # of each weight file, at most; 0: the files as they are
    block: int = 2048  # of delta8: elements that share a scale


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
    """How the experts are weighed: a rule (btm/ensemble/rules.py), its prior, and how many experts are kept."""

    # bayes | simple | last_token | fixed_share | tracking | gated (btm/gate) | router (btm/ensemble/router.py)
    rule: str = "bayes"
    alpha: float | None = None  # of tracking and fixed_share: share of the prior in each step; null: fitted
    beta: float | None = None  # of tracking: power of the weights in each step; null: fitted
    gate: list[float] | None = None  # θ of gated: 8 numbers (btm/ensemble/gate/rule.py); null: fitted
    router: str | None = None  # what discovery wrote, for the rule router; null: data.root
    temperature: float | None = None  # of its softmax; null: the router's own
    fit: str = "domain"  # these on the shard's own valid split | forest: once, on the training domains'
    prior: str = "cached"  # uniform | updating | cached | em | token
    carry: bool = False  # a window takes up the belief that the one before it ended with
    decay: float = 0.3  # λ of the moving average behind `cached` and `updating`
    top_k: int = 0  # experts kept, by prior, or by router for each context; 0: all
    # Empty: every ELM trained on one domain. For generate also averages, FOREST:NAME and model folders
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


@dataclass
class AverageConfig:
    """How one model is made of several (btm/models/average/methods.py); its weights are the top-level `weights`."""

    name: str | None = None  # null: made of method, weights and domain
    experts: list[str] = field(default_factory=list)  # empty: every ELM trained on one domain
    # linear | slerp | task_arithmetic | ties | dare_ties | dare_linear | breadcrumbs | model_stock | fisher |
    # | greedy_soup; null: linear of weights=; without weights=, task_arithmetic of token weights with scale=fit
    method: str | None = None
    base: str | None = None  # the ELM that differences are taken from; null: the seed
    scale: float | int | str = 1.0  # λ, on the sum of differences | fit: what does best on valid
    density: float = 0.5  # share of each difference that ties, dare and breadcrumbs keep
    gamma: float = 0.01  # share of each difference, its largest entries, that breadcrumbs drops
    t: float = 0.5  # of slerp: 0 is the base, 1 the other ELM
    rescale: str = "density"  # of what dare keeps: density (1/density) | l1 | none
    seed: int = 0  # of what dare drops
    sequences: int = 100  # valid windows that fisher estimates its information on
    layers: Any = None  # {pattern of tensors' names: {elm: weight}}; of several that match, the last counts
    accumulate: str = "float32"  # or float64
    dtype: str | None = None  # of the parameters: fp32 | bf16 | fp16; null: as stored
    shard_gb: float = 0.0  # of a weight file, at most; 0: the files of the first ELM
    measure: bool = (
        True  # on valid splits, beside the seed, before it is sealed; its card says what came of it
    )


@dataclass
class DiscoverConfig:
    """Domains found by clustering: how many, and how documents are told apart."""

    k: int = 8  # clusters
    out: str | None = None  # the folder that is written; null: discovered/<data.name>
    sample: int = 100_000  # documents that features and centres are fitted on
    features: int = 100  # dimensions of the truncated SVD
    temperature: float = 0.1  # of the router's softmax
    seed: int = 0


@dataclass
class RunConfig:
    """A whole cycle: the seed, then rounds of experts, then evaluation and averages."""

    domains: list[str] = field(default_factory=list)  # one round; empty: all training domains
    rounds: list[list[str]] = field(default_factory=list)  # several; a later round sees the earlier
    average: bool = True  # one model of the experts at the end (btm average)


@dataclass
class PaperConfig:
    """The paper's tables: what is grown side by side. A bundle conf/size/*.yaml gives each size its values."""

    name: str = ""  # of the size; empty: none was chosen
    out: str | None = None  # forests, logs and report; null: results/<paper.name>
    report: str | None = None  # null: <paper.out>/report
    steps: int = 0  # of seed and experts together, and of the dense LM; a step is one batch
    seeds: list[int] = field(default_factory=lambda: [0])  # of the main rows
    seed_fraction: float = 0.5  # of the steps
    fractions: list[float] = field(default_factory=list)  # other seed fractions, under the first seed
    baselines: list[str] = field(default_factory=list)  # under every seed
    extra_baselines: list[str] = field(default_factory=list)  # under the first seed
    added: list[str] = field(default_factory=list)  # domains of a second round, under the first seed
    schemes: list[str] = field(default_factory=list)  # of these: copy | uniform | argmax | posterior | token
    resamples: int = 2000  # of the bootstrap
    parallel: int = 0  # studies at once, one thread each; 0: one a core


@dataclass
class JobConfig:
    """What one job gets; null: what `cluster` says."""

    cpus: int | None = None
    gpus: int | None = None
    gpus_per_expert: int | None = None  # of seed and train alone
    memory_gb: float | None = None
    time_min: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int | None = None
    parallel: int | None = None


@dataclass
class ClusterConfig:
    """Where the jobs of a cycle run, what each gets, and what happens when one dies."""

    kind: str = "local"  # debug: in this process, one after another | local: this machine | slurm
    cpus: int = 0  # threads of a job; 0: local measures which number is fastest, slurm takes 1
    gpus: int = 0  # of a job; local gives each job cards of its own
    gpus_per_expert: int = 1  # processes that train one expert together, each on a GPU; without GPUs on CPUs
    cards: int | None = None  # GPUs of this machine that local may use; null: as found
    memory_gb: float = 0.0  # of a job, which is killed above it; 0: no bound
    time_min: int = 0  # minutes; 0: the partition's limit
    nodes: int = 1
    parallel: int = 0  # jobs at once; 0: as many as the machine, or the queue, carries
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: list[str] = field(default_factory=list)  # shell lines before the job: modules, variables
    extra: dict[str, Any] = field(default_factory=dict)  # other options of sbatch, {reservation: x}
    seed: JobConfig = field(default_factory=JobConfig)
    train: JobConfig = field(default_factory=JobConfig)
    score: JobConfig = field(default_factory=JobConfig)
    finish: JobConfig = field(default_factory=JobConfig)
    retries: int = 3  # of a job that died for no fault of its own, and gained nothing since it last died
    backoff: float = 5.0  # seconds before the first of them; doubles
    hang_after: float = 600.0  # seconds without a sign of life after which a job is killed
    poll: float = 10.0  # seconds between questions to slurm
    warn_before: int = 90  # seconds before its time limit at which slurm tells a job to save and requeue


@dataclass
class CardConfig:
    """What the card of a new ELM says that btm cannot know."""

    license: str | None = None  # an identifier of the Hugging Face Hub, apache-2.0; null: none is stated


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
    score: ScoreConfig = field(default_factory=ScoreConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    run: RunConfig = field(default_factory=RunConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    card: CardConfig = field(default_factory=CardConfig)
    ls: LsConfig = field(default_factory=LsConfig)
    remove: RemoveConfig = field(default_factory=RemoveConfig)
    lineage: LineageConfig = field(default_factory=LineageConfig)
    diff: DiffConfig = field(default_factory=DiffConfig)
    forest: str | None = None  # its folder; null: experts/<data.name>
    baseline: str | None = None  # dense | dense_large_batch | random_split | demix, in <forest>-<baseline>
    expert: str | None = (
        None  # the ELM to branch, train, merge or remove; for show, verify and diff also an average
    )
    # Of diff: another ELM or an average; null: what the expert began with. Of compare: [FOREST, …]
    against: Any = None
    # What eval and compare measure too: names of ELMs and averages, FOREST:NAME, or model folders
    models: list[str] = field(default_factory=list)
    domain: str | None = None  # its domain; null: the expert's name
    prompt: str | None = None  # of generate, taken as it is: it needs no quotes but the shell's
    branch: str = "posterior"  # copy | uniform | argmax | posterior | token
    weights: Any = None  # {elm: weight} for branch; for average also uniform | argmax | posterior | token
    parent: str | None = None  # of branch=copy; null: the seed. Of import: what the model was trained from
    format: str = "hf"  # hf | mergekit | fairseq | delta | delta8: of what is imported or exported
    to: str | None = None  # the folder, or the file, that export writes

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

        Where none are given, as many as the experts of the first round have together: half of the training, as in the
        paper (BTM, section 3.1) and as our own tables have it (docs/paper.md). Without run.domains and run.rounds,
        that round has an expert for each of the `training_domains` of the suite.
        """
        if self.seed.steps is not None:
            return self.seed.steps
        first = self.run.rounds[0] if self.run.rounds else self.run.domains or training_domains
        return self.trainer.steps * max(1, len(first))

    @property
    def window(self) -> int:
        """Tokens of context when scoring."""
        return self.score.window or self.trainer.seq_len

    def validate(self) -> "Config":
        """Return self, or raise `UserError` naming the first key whose value makes no sense."""
        validation.validate(self)
        return self

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Return the configuration that `dataclasses.asdict` made `values` of; unknown keys are an error."""
        return fill(cls(), values).validate()
