"""The forecast of a cycle: its jobs, parents and weights, tokens, FLOPs, disk space and time."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from btm import steps
from btm.config.schema import Config
from btm.data.batches import Growth
from btm.forest import Forest
from btm.forest.paths import ModelFolder, Paths
from btm.launch.jobs import Job, jobs_of
from btm.launch.records import read_shown
from btm.models import causal_lm, flops, weights
from btm.report.tables import TableRow
from btm.steps.baselines import SHARES_SEED
from btm.steps.baselines.derive import expert_domains
from btm.train.distributed import job as distributed

WORTH_A_FOREST = 10  # training tokens for each parameter of an ELM, at least
_CHECKPOINTS = 3  # at once: the newest, the one before it, and the one being written
_BYTES = 4  # of a float32
_MOMENTS = 2  # of AdamW, for each parameter
_NAMES = 4  # parents that are listed by name


@dataclass(frozen=True)
class Costs:
    """The costs of one ELM of a forest."""

    parameters: int
    flops_per_token: float
    tokens_per_second: float | None  # of all jobs of a machine together; None: not known yet

    @classmethod
    def of(cls, config: Config) -> "Costs":
        """Measure them on the seed if it stands, else compute them from the architecture."""
        root = Path(config.forest_root)
        seeds = [Paths(place).elm(config.seed.name).path for place in (root, config.base_root)]
        seed = next((seed for seed in seeds if seed.is_dir()), seeds[0])
        if ModelFolder(seed).config.is_file():
            count, made = weights.parameters(seed), causal_lm.load_config(seed)
        elif config.seed.source:
            source = Path(config.seed.source)
            count, made = weights.parameters(source), causal_lm.load_config(source)
        else:
            folder = Path(config.data.out) / config.data.name
            size = (
                steps.open_suite(config).vocab_size if folder.is_dir() else config.data.vocab_size
            )
            made = causal_lm.make_config(config.model, size, 0)
            count = causal_lm.count_parameters(made)
        per_token = flops.Shape.of_config(made).training_flops(config.trainer.seq_len)
        return cls(count, per_token, _rate(config, root))

    @property
    def elm_bytes(self) -> int:
        """The weights of one ELM on disk."""
        return self.parameters * _BYTES

    @property
    def training_bytes(self) -> int:
        """The checkpoints of one training on disk, at most."""
        return self.parameters * _BYTES * (1 + _MOMENTS) * _CHECKPOINTS


def _rate(config: Config, root: Path) -> float | None:
    """Return tokens per second: measured here for all jobs together, or that of the seed."""
    known = (read_shown(Paths(root).jobs.throughput) or {}).get("tokens_per_second", {})
    if known and config.cluster.kind != "slurm":
        return max(known.values())
    metrics = Paths(root).elm(config.seed.name).metrics
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    if not lines:
        return None
    return json.loads(lines[-1])["tokens_per_second"]


@dataclass(frozen=True)
class JobForecast:
    """The forecast of one job; None where it takes nothing, or where that is not known yet."""

    job: str
    round: int | None
    what: str
    parents: str = ""
    tokens: int | None = None
    flops: float | None = None
    disk_bytes: int | None = None
    seconds: float | None = None

    def row(self) -> TableRow:
        """Make the table row of this job."""
        return {
            "job": self.job,
            "round": self.round,
            "what": self.what,
            "parents": self.parents,
            "tokens": self.tokens,
            "flops": self.flops,
            "disk bytes": self.disk_bytes,
            "seconds": self.seconds,
        }


def forecast(config: Config, rounds: list[list[str]]) -> list[TableRow]:
    """Make a row for each job of the cycle and one for the sum."""
    costs, jobs = Costs.of(config), _forecasts(config, rounds)
    tokens = sum(job.tokens or 0 for job in jobs)
    seconds = None if costs.tokens_per_second is None else tokens / costs.tokens_per_second
    if seconds and config.cluster.kind == "slurm":
        seconds /= config.cluster.train.parallel or config.cluster.parallel or max(map(len, rounds))
    total = JobForecast(
        job="all",
        round=None,
        what="",
        tokens=tokens,
        flops=sum(job.flops or 0 for job in jobs),
        disk_bytes=sum(job.disk_bytes or 0 for job in jobs),
        seconds=seconds,
    )
    return [job.row() for job in [*jobs, total]]


def _forecasts(config: Config, rounds: list[list[str]]) -> list[JobForecast]:
    """Forecast each job of the cycle."""
    costs = Costs.of(config)
    root = Path(config.forest_root)
    forest = Forest(root) if Forest.stands(root) else None
    done = set(forest.names()) if forest else set()
    return [_forecast(job, config, costs, forest, done) for job in jobs_of(config, rounds)]


def too_few_tokens(config: Config) -> str:
    """Advise against a forest where one dense LM is likely better; "" where a forest pays.

    The measure is the tokens of the seed phase and of all experts for each parameter of one ELM
    (docs/choosing.md).
    """
    if config.baseline is not None or config.seed.source:
        return ""  # what an imported seed was trained on is not known
    experts, trainer = len(expert_domains(config)), config.trainer
    steps = config.seed_steps(expert_domains(config)) + experts * trainer.steps
    tokens, parameters = steps * trainer.batch_size * trainer.seq_len, Costs.of(config).parameters
    if tokens >= WORTH_A_FOREST * parameters:
        return ""
    return (
        f"{tokens / 1e6:,.2f} M training tokens are {tokens / parameters:.1f} for each of a "
        f"model's {parameters / 1e6:,.2f} M parameters; below {WORTH_A_FOREST}, one dense model is "
        f"likely better than a forest of {experts} experts: train more steps (seed.steps=, "
        "trainer.steps=) or a smaller model= (docs/choosing.md)"
    )


def disk_bytes(config: Config, rounds: list[list[str]], at_once: int) -> int:
    """Compute the bytes that a cycle still needs at most, with `at_once` trainings at once."""
    jobs = _forecasts(config, rounds)
    trainings = sum(job.tokens is not None for job in jobs)
    kept = sum(job.disk_bytes or 0 for job in jobs)
    return kept + min(trainings, at_once) * Costs.of(config).training_bytes


def _forecast(
    job: Job, config: Config, costs: Costs, forest: Forest | None, done: set[str]
) -> JobForecast:
    def made(what: str, disk_bytes: int | None = None) -> JobForecast:
        return JobForecast(job.name, job.round or None, what, disk_bytes=disk_bytes)

    trainer = config.trainer
    if job.verb == "score":
        return made("token log-probabilities, where missing")
    if job.verb == "finish":
        average = "average, " if config.run.average else ""
        size = costs.elm_bytes if config.run.average else 0
        return made(f"{average}evaluate, prior {config.ensemble.prior}", size)
    if job.elm in done:
        return made("nothing: it stands there")
    if job.verb == "seed" and config.seed.source:
        return made(f"import {config.seed.source}", costs.elm_bytes)
    if job.verb == "seed" and config.baseline in SHARES_SEED:
        copied = f"copy {Paths(config.base_root).elm(job.elm).path}"
        return made(copied, costs.elm_bytes * (1 + _MOMENTS))
    steps = config.seed_steps(expert_domains(config)) if job.verb == "seed" else trainer.steps
    tokens = _sequences(job, config, steps) * trainer.seq_len
    kept = _MOMENTS if job.verb == "seed" and steps and trainer.carry != "fresh" else 0
    return replace(
        made(_training(job, config, steps)),
        parents="" if job.verb == "seed" else _parents(job, config, forest),
        tokens=tokens,
        flops=tokens * costs.flops_per_token,
        disk_bytes=costs.elm_bytes * _elms(job, config) * (1 + kept),
        seconds=None if costs.tokens_per_second is None else tokens / costs.tokens_per_second,
    )


def _sequences(job: Job, config: Config, steps: int) -> int:
    """Count the sequences that a job trains on."""
    size, seed = config.trainer.batch_size, config.seed
    if job.verb == "seed":
        return Growth(seed.grow_batch, seed.grow_after).before(steps, size)
    return steps * size * (len(config.run.rounds[0]) if config.baseline == "demix" else 1)


def _elms(job: Job, config: Config) -> int:
    """Count the ELMs that a training makes."""
    if job.verb == "train" and config.baseline == "demix":
        return len(config.run.rounds[0]) + 1  # one for each domain, and their average
    return 1


def _training(job: Job, config: Config, steps: int) -> str:
    """Describe a training in a few words."""
    if not steps:
        return "random parameters, untrained"
    text = f"train {steps:,} steps"
    if job.verb == "seed" and config.seed.grow_batch > 1:
        text += f", after {config.seed.grow_after:,} with {config.seed.grow_batch} times the batch"
    if job.verb == "train" and config.baseline == "demix":
        text += f", each on a batch of {len(config.run.rounds[0])} domains"
    return text + distributed.said(config, job.verb)


def _parents(job: Job, config: Config, forest: Forest | None) -> str:
    """List parents with their weights where those are known, else how they will be found."""
    if config.baseline == "demix":
        return f"{config.seed.name} 1"
    if forest is not None and forest.has_branch(job.elm):
        parents = forest.get_branch(job.elm).parents.items()
        return ", ".join(f"{name} {parent.weight:.3f}" for name, parent in parents)
    if isinstance(config.weights, dict):
        return ", ".join(f"{name} {weight:g}" for name, weight in config.weights.items())
    if config.branch == "copy":
        return f"{config.parent or config.seed.name} 1"
    if len(job.among) == 1:
        return f"{job.among[0]} 1"
    if config.branch == "uniform" and len(job.among) <= _NAMES:
        return ", ".join(f"{name} {1 / len(job.among):.3f}" for name in job.among)
    more = f" and {len(job.among) - _NAMES} more" if len(job.among) > _NAMES else ""
    return f"{config.branch} of {', '.join(job.among[:_NAMES])}{more}"
