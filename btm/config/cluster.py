"""Settings of jobs: where they run, what they may take, and the rounds of a cycle."""

from dataclasses import dataclass, field, fields
from typing import Any

from btm.config.checks import check_choice, check_least, check_names, require

CLUSTERS = ("debug", "local", "slurm")


@dataclass
class RunConfig:
    """A whole cycle: the seed, then rounds of experts, then evaluation and averages."""

    domains: list[str] = field(default_factory=list)  # one round; empty: all training domains
    rounds: list[list[str]] = field(default_factory=list)  # several; a later round sees the earlier
    average: bool = True  # one model of the experts at the end (btm average)


@dataclass
class PaperConfig:
    """The paper's tables: what is grown side by side. A bundle conf/size/*.yaml gives each size its
    values.
    """

    name: str = ""  # of the size; empty: none was chosen
    out: str | None = None  # forests, logs and report; null: results/<paper.name>
    report: str | None = None  # null: <paper.out>/report
    steps: int = 0  # of seed and experts together, and of the dense LM; a step is one batch
    seeds: list[int] = field(default_factory=lambda: [0])  # of the main rows
    seed_fraction: float = 0.5  # of the steps
    fractions: list[float] = field(
        default_factory=list
    )  # other seed fractions, under the first seed
    baselines: list[str] = field(default_factory=list)  # under every seed
    extra_baselines: list[str] = field(default_factory=list)  # under the first seed
    added: list[str] = field(
        default_factory=list
    )  # domains of a second round, under the first seed
    schemes: list[str] = field(
        default_factory=list
    )  # of these: copy | uniform | argmax | posterior | token
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
    # processes that train one expert together, each on a GPU; without GPUs on CPUs
    gpus_per_expert: int = 1
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
    # of a job that died for no fault of its own, and gained nothing since it last died
    retries: int = 3
    backoff: float = 5.0  # seconds before the first of them; doubles
    hang_after: float = 600.0  # seconds without a sign of life after which a job is killed
    poll: float = 10.0  # seconds between questions to slurm
    # seconds before its time limit at which slurm tells a job to save and requeue
    warn_before: int = 90


def processes_of(cluster: ClusterConfig, verb: str) -> int:
    """Count the processes that do one job of a verb together: more than one for seed and train
    alone.
    """
    own = getattr(cluster, verb).gpus_per_expert
    return (own or cluster.gpus_per_expert) if verb in ("seed", "train") else 1


def check_run(run: RunConfig) -> None:
    """Raise `UserError` naming the first key of `run` whose names make no sense."""
    check_names(run.domains, "run.domains")
    for i, names in enumerate(run.rounds):
        check_names(names, f"run.rounds[{i}]")


def check_cluster(cluster: ClusterConfig) -> None:
    """Raise `UserError` naming the first key of `cluster` whose value makes no sense."""
    check_choice(cluster.kind, "cluster.kind", CLUSTERS)
    zero = ("cpus", "gpus", "memory_gb", "time_min", "parallel", "retries", "backoff")
    check_least(cluster, "cluster", 0, *zero)
    for key in ("gpus_per_expert", "nodes", "hang_after", "poll", "warn_before"):
        value = getattr(cluster, key)
        require(0 < value < float("inf"), f"cluster.{key}", value, "wanted more than 0")
    for verb in ("seed", "train", "score", "finish"):
        job = getattr(cluster, verb)
        for item in fields(job):
            if isinstance(getattr(job, item.name), int | float):
                low = 1 if item.name in ("nodes", "gpus_per_expert") else 0
                check_least(job, f"cluster.{verb}", low, item.name)
