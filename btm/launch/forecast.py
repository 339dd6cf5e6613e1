"""The forecast of a cycle: its jobs, parents and weights, tokens, FLOPs, disk space and time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.paths import Paths
from btm.forest.suites import open_suites
from btm.launch.jobs import Job, jobs_of
from btm.report.tables import TableRow
from btm.steps import plan
from btm.steps.baselines import SHARES_SEED
from btm.steps.baselines.derive import expert_domains
from btm.steps.costs import MOMENTS, Costs
from btm.train import phase
from btm.train.distributed import job as distributed

WORTH_A_FOREST = 10  # training tokens for each parameter of an ELM, at least
ENOUGH_STEPS = (
    2000  # of the seed phase and all experts: with fewer, a longer seed phase does better
)
_NAMES = 4  # parents that are listed by name


@dataclass(frozen=True)
class JobForecast:
    """The forecast of one job; None where it takes nothing, or where that is not known yet."""

    job: str
    round: int | None
    what: str
    parents: str = ""
    tokens: int | None = None
    epochs: Mapping[str, float] | None = None  # passes over the text of each domain
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
            "epochs": None if self.epochs is None else dict(self.epochs),
            "flops": self.flops,
            "disk bytes": self.disk_bytes,
            "seconds": self.seconds,
        }


def forecast(config: Config, rounds: list[list[str]], gone: Collection[str] = ()) -> list[TableRow]:
    """Make a row for each job of the cycle and one for the sum; ELMs in `gone` count as removed."""
    costs, jobs = Costs.of(config), _forecasts(config, rounds, gone)
    tokens = sum(job.tokens or 0 for job in jobs)
    seconds = costs.seconds(tokens)
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


def _forecasts(
    config: Config, rounds: list[list[str]], gone: Collection[str] = ()
) -> list[JobForecast]:
    """Forecast each job of the cycle."""
    costs = Costs.of(config)
    root = Path(config.forest_root)
    forest = Forest(root) if Forest.stands(root) else None
    done = set(forest.names()) - set(gone) if forest else set()
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
        return "" if steps >= ENOUGH_STEPS or experts < 2 else _few_steps(config, steps, experts)
    return (
        f"{tokens / 1e6:,.2f} M training tokens are {tokens / parameters:.1f} for each of a "
        f"model's {parameters / 1e6:,.2f} M parameters; below {WORTH_A_FOREST}, one dense model is "
        f"likely better than a forest of {experts} experts: train more steps (seed.steps=, "
        "trainer.steps=) or a smaller model= (docs/choosing.md)"
    )


def _few_steps(config: Config, steps: int, experts: int) -> str:
    """Advise what did better than the defaults where steps are few (docs/choosing.md)."""
    longer = 3 * experts * config.trainer.steps
    ways = [f"half of trainer.batch_size={config.trainer.batch_size} with twice the steps"]
    if config.seed_steps(expert_domains(config)) < longer:
        ways.append(f"a seed phase of three quarters (seed.steps={longer})")
    return (
        f"{steps:,} steps in all are few for a forest of {experts} experts: {', or '.join(ways)}, "
        "did better (docs/choosing.md)"
    )


def too_many_epochs(config: Config, rounds: list[list[str]]) -> list[str]:
    """Warn of each domain whose text a job of the cycle reads too often to learn from it."""
    return [
        text
        for job in _forecasts(config, rounds)
        for text in plan.too_many_epochs(job.job, job.epochs or {})
    ]


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
        return made(copied, costs.elm_bytes * (1 + MOMENTS))
    steps = config.seed_steps(expert_domains(config)) if job.verb == "seed" else trainer.steps
    tokens = _sequences(job, config, steps) * trainer.seq_len
    kept = MOMENTS if job.verb == "seed" and steps and trainer.carry != "fresh" else 0
    return replace(
        made(_training(job, config, steps)),
        parents="" if job.verb == "seed" else _parents(job, config, forest),
        tokens=tokens,
        epochs=_epochs(job, config, steps) if steps else None,
        flops=tokens * costs.flops_per_token,
        disk_bytes=costs.elm_bytes * len(job.makes) * (1 + kept),
        seconds=costs.seconds(tokens),
    )


def _sequences(job: Job, config: Config, steps: int) -> int:
    """Count the sequences that a job trains on."""
    size = config.trainer.batch_size
    if job.verb == "seed":
        return phase.growth_of(config).before(steps, size)
    return steps * size * job.batches


def _epochs(job: Job, config: Config, steps: int) -> dict[str, float] | None:
    """Count how often a job reads the text of each of its domains.

    None where a text is still to be prepared.
    """
    is_root = job.verb == "seed"
    domains = job.together or (job.elm,)
    if is_root:
        domains = tuple(config.seed.domains or expert_domains(config))
    try:
        suite = open_suites(config)
        shards = [suite.shard(domain, "train") for domain in domains]
        # Those that are trained together have batches of their own.
        groups = [[shard] for shard in shards] if job.together else [shards]
        batches = [phase.batches(config, group, job.elm, is_root=is_root) for group in groups]
    except UserError:
        return None
    return {domain: n for each in batches for domain, n in each.epochs(steps).items()}


def _training(job: Job, config: Config, steps: int) -> str:
    """Describe a training in a few words."""
    if not steps:
        return "random parameters, untrained"
    text = f"train {steps:,} steps"
    if job.verb == "seed" and config.seed.grow_batch > 1:
        text += f", after {config.seed.grow_after:,} with {config.seed.grow_batch} times the batch"
    if job.together:
        text += f", each on a batch of {job.batches} domains"
    return text + distributed.said(config, job.verb)


def _parents(job: Job, config: Config, forest: Forest | None) -> str:
    """List parents with their weights where those are known, else how they will be found."""
    if job.together:
        return f"{job.among[0]} 1"
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
