"""Settings of jobs: where they run, what they may take, and the rounds of a cycle."""

from dataclasses import dataclass, field, fields
from typing import Any

from btm.config.checks import check_choice, check_least, check_names, require
from btm.config.choices import BASELINES, BRANCH_METHODS
from btm.config.keys import key
from btm.errors import UserError

CLUSTERS = ("debug", "local", "slurm")
RUNTIMES = ("apptainer", "singularity", "pyxis")
_CLEANING = ("-e", "--cleanenv", "-C", "--containall")  # options that hide Slurm's variables
_VERBS = ("seed", "train", "score", "finish")
# Options of sbatch by which btm knows its jobs again: the key that a user has instead, if any.
SET_BY_BTM = {
    "array": "cluster.parallel",
    "clusters": "",
    "cpus-per-task": "cluster.cpus",
    "dependency": "",
    "error": "",
    "job-name": "",
    "open-mode": "",
    "output": "",
    "parsable": "",
    "signal": "cluster.warn_before",
    "test-only": "",
    "wait": "",
    "wrap": "",
}


@dataclass
class RunConfig:
    """A whole cycle: the seed, then rounds of experts, then evaluation and averages."""

    domains: list[str] = key([], "domains of the only round; empty: all training domains")
    rounds: list[list[str]] = key(
        [],
        "domains of each round, [[law, med], [biolaw]]; a later round branches from earlier "
        "experts",
    )
    average: bool = key(True, "make one model of the experts at the end, as btm average does")


@dataclass
class PaperConfig:
    """The paper's tables: what is grown side by side. A bundle conf/size/*.yaml gives each size its
    values.
    """

    name: str = key("", "name of the size, which size= sets; empty: none was chosen")
    out: str | None = key(None, "folder of forests, logs and report; null: results/<paper.name>")
    report: str | None = key(None, "folder of the report; null: <paper.out>/report")
    steps: int = key(0, "training steps of the seed and the experts together, and of the dense LM")
    seeds: list[int] = key([0], "random seeds of the main rows")
    seed_fraction: float = key(0.5, "fraction of paper.steps that trains the seed")
    fractions: list[float] = key([], "other seed fractions, grown under the first random seed")
    baselines: list[str] = key([], "baselines grown under every random seed", BASELINES)
    extra_baselines: list[str] = key(
        [], "baselines grown under the first random seed alone", BASELINES
    )
    added: list[str] = key([], "domains of a second round, under the first random seed")
    schemes: list[str] = key(
        [], "ways to initialise the experts of the second round", BRANCH_METHODS
    )
    made_steps: int = key(
        0, "training steps of each student and MoE that is made of a main forest; 0: none is made"
    )
    resamples: int = key(2000, "resamples of the bootstrap")
    parallel: int = key(0, "studies at once, one thread each; 0: one per core")


@dataclass
class JobConfig:
    """What one job gets; null: what `cluster` says."""

    cpus: int | None = key(None, "CPU threads of the job; null: cluster.cpus")
    gpus: int | None = key(None, "GPUs of the job; null: cluster.gpus")
    gpus_per_expert: int | None = key(
        None,
        "processes that train one model together, of seed and train alone; null: "
        "cluster.gpus_per_expert",
    )
    memory_gb: float | None = key(None, "memory of the job, in GB; null: cluster.memory_gb")
    time_min: int | None = key(None, "time limit, in minutes; null: cluster.time_min")
    partition: str | None = key(None, "Slurm's partition; null: cluster.partition")
    account: str | None = key(None, "Slurm's account; null: cluster.account")
    qos: str | None = key(None, "Slurm's quality of service; null: cluster.qos")
    nodes: int | None = key(None, "nodes of the job; null: cluster.nodes")
    parallel: int | None = key(None, "jobs of this kind at once; null: cluster.parallel")
    extra: dict[str, Any] = key({}, "options of sbatch for these jobs, beside cluster.extra")


@dataclass
class ClusterConfig:
    """Where the jobs of a cycle run, what each gets, and what happens when one dies."""

    kind: str = key(
        "local",
        "where jobs run: debug is this process, one after another; local is this machine",
        CLUSTERS,
    )
    cpus: int = key(
        0, "CPU threads of a job; 0: local measures which number is fastest, slurm takes 1"
    )
    gpus: int = key(0, "GPUs of a job; local gives each job its own")
    gpus_per_expert: int = key(
        1, "processes that train one expert together, each on a GPU, or on CPUs where there is none"
    )
    cards: int | None = key(
        None, "GPUs of this machine that cluster=local may use; null: all it finds"
    )
    memory_gb: float = key(0.0, "memory of a job, in GB; a job is killed above it; 0: no limit")
    time_min: int = key(0, "time limit of a job, in minutes; 0: the partition's limit")
    nodes: int = key(1, "nodes of a job")
    parallel: int = key(0, "jobs at once; 0: as many as the machine or the queue carries")
    partition: str | None = key(None, "Slurm's partition; null: SBATCH_PARTITION, or its default")
    account: str | None = key(None, "Slurm's account; null: SBATCH_ACCOUNT, or its default")
    qos: str | None = key(None, "Slurm's quality of service; null: SBATCH_QOS, or its default")
    wckey: str | None = key(
        None, "Slurm's workload characterization key; null: SBATCH_WCKEY, or none"
    )
    setup: list[str] = key([], "shell lines before each job, such as module load cuda")
    python: str | None = key(
        None,
        "command that is Python on the nodes, or in their container; null: this Python, or the "
        "python3 of the container",
    )
    container: str | None = key(
        None,
        "image in which the jobs run, of cluster=slurm alone: a file (btm.sif, btm.sqsh), a "
        "folder, or an address (docker://ORG/IMAGE:TAG); null: none",
    )
    container_runtime: str | None = key(
        None,
        "what runs the container: a command, or srun with Pyxis and enroot; null: pyxis for an "
        "image *.sqsh, else apptainer",
        RUNTIMES,
    )
    container_mounts: list[str] = key(
        [],
        "folders that jobs in a container see beside the working folder, the forest and the text: "
        "SRC, SRC:DST or SRC:DST:ro, absolute",
    )
    container_options: list[str] = key(
        [],
        "further options of the runtime, or with Pyxis of srun: [--rocm], [--container-writable]",
    )
    extra: dict[str, Any] = key(
        {}, "other options of sbatch, {mem-per-cpu: 4G, exclusive: true}; they win over the keys"
    )
    seed: JobConfig = field(default_factory=JobConfig)
    train: JobConfig = field(default_factory=JobConfig)
    score: JobConfig = field(default_factory=JobConfig)
    finish: JobConfig = field(default_factory=JobConfig)
    retries: int = key(
        3,
        "attempts after a job that died for no fault of its own, and made no progress since "
        "it last died",
    )
    backoff: float = key(5.0, "seconds before the first of these attempts; doubles each time")
    hang_after: float = key(600.0, "seconds without a sign of life after which a job is killed")
    poll: float = key(10.0, "seconds between two questions to Slurm")
    patience: float = key(
        300.0,
        "seconds for which a Slurm is asked again that does not answer, or takes no more jobs, "
        "while it has none of the cycle",
    )
    warn_before: int = key(
        90, "seconds before its time limit at which Slurm tells a job to save and requeue"
    )


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


def check_paper(paper: PaperConfig) -> None:
    """Raise `UserError` naming the first key of `paper` whose value makes no sense."""
    for word in ("baselines", "extra_baselines"):
        for baseline in getattr(paper, word):
            check_choice(baseline, f"paper.{word}", BASELINES)
    for scheme in paper.schemes:
        check_choice(scheme, "paper.schemes", BRANCH_METHODS)
    check_least(paper, "paper", 0, "made_steps")


def check_cluster(cluster: ClusterConfig) -> None:
    """Raise `UserError` naming the first key of `cluster` whose value makes no sense."""
    check_choice(cluster.kind, "cluster.kind", CLUSTERS)
    zero = ("cpus", "gpus", "memory_gb", "time_min", "parallel", "retries", "backoff", "patience")
    check_least(cluster, "cluster", 0, *zero)
    for word in ("gpus_per_expert", "nodes", "hang_after", "poll", "warn_before"):
        value = getattr(cluster, word)
        require(0 < value < float("inf"), f"cluster.{word}", value, "wanted more than 0")
    for verb in _VERBS:
        job = getattr(cluster, verb)
        for item in fields(job):
            if isinstance(getattr(job, item.name), int | float):
                low = 1 if item.name in ("nodes", "gpus_per_expert") else 0
                check_least(job, f"cluster.{verb}", low, item.name)
        check_extra(job.extra, f"cluster.{verb}.extra")
    check_extra(cluster.extra, "cluster.extra")
    require(cluster.python != "", "cluster.python", "''", "wanted a command, or null")
    _check_container(cluster)


def _check_container(cluster: ClusterConfig) -> None:
    """Check what can be said of a container without looking for its image."""
    image, runtime = cluster.container, cluster.container_runtime
    if runtime is not None:
        check_choice(runtime, "cluster.container_runtime", RUNTIMES)
    if image is not None:
        require(image != "", "cluster.container", "''", "wanted an image, or null")
        is_sif = runtime == "pyxis" and image.endswith(".sif")
        wanted = "Pyxis takes no .sif; give one that enroot made (.sqsh), or its address"
        require(not is_sif, "cluster.container", image, wanted)
        for options in (cluster.extra, *(getattr(cluster, verb).extra for verb in _VERBS)):
            if own := [name for name in options if str(name).lstrip("-").startswith("container")]:
                raise UserError(
                    f"cluster.extra: {own[0]} stands beside cluster.container; give one"
                )
    for mount in cluster.container_mounts:
        source, *rest = mount.split(":")
        is_one = all(path.startswith("/") for path in (source, *rest[:1])) and "," not in mount
        is_one &= rest[1:] in ([], ["ro"])
        form = "wanted SRC, SRC:DST or SRC:DST:ro, of absolute paths"
        require(is_one, "cluster.container_mounts", mount, form)
    for option in cluster.container_options:
        form = "wanted an option with its value in one word: --name, or --name=VALUE"
        require(option.startswith("-"), "cluster.container_options", option, form)
        hides = "would hide the variables of Slurm by which a job knows its task; leave it out"
        require(option not in _CLEANING, "cluster.container_options", option, hides)


def check_extra(options: dict[str, Any], key: str) -> None:
    """Raise `UserError` naming the first option of sbatch that btm itself must set, or that is
    none.
    """
    for name in options:
        plain = str(name).lstrip("-").replace("_", "-")
        require(len(plain) > 1, key, name, "wanted the long name of an option: partition, not p")
        if plain in SET_BY_BTM:
            instead = SET_BY_BTM[plain] and f"; give {SET_BY_BTM[plain]}"
            raise UserError(f"{key}: sbatch's --{plain} is set by btm{instead}")
