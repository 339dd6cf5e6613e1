"""What a cycle will take before it is started: jobs, parents and weights, tokens, FLOPs, disk and
time.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btm import steps
from btm.config.schema import Config
from btm.data.batches import Growth
from btm.forest import Forest
from btm.forest.paths import ModelFolder, Paths
from btm.launch.jobs import Job, jobs_of
from btm.launch.records import read_shown
from btm.models import causal_lm, flops, weights
from btm.steps.baselines import SHARES_SEED
from btm.steps.baselines.derive import expert_domains
from btm.train.distributed import job as distributed

WORTH_A_FOREST = 10  # training tokens for each parameter of an ELM, at least
_CHECKPOINTS = 3  # the newest, the one before it, and the one being written
_BYTES = 4  # of a float32
_MOMENTS = 2  # of AdamW
_NAMES = 4  # of parents that are listed one by one


@dataclass(frozen=True)
class Costs:
    """What one ELM of a forest costs."""

    parameters: int
    flops_per_token: float
    tokens_per_second: float | None  # of all jobs of a machine together; None: not known yet

    @classmethod
    def of(cls, config: Config) -> "Costs":
        """Take them from the seed if it stands, else from the architecture."""
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
            prepared = (
                steps.open_suite(config).vocab_size if folder.is_dir() else config.data.vocab_size
            )
            made = causal_lm.make_config(config.model, prepared, 0)
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
    """Return tokens per second: as measured on this machine with all jobs together, or as the seed
    had.
    """
    known = (read_shown(Paths(root).jobs.throughput) or {}).get("tokens_per_second", {})
    if known and config.cluster.kind != "slurm":
        return max(known.values())
    metrics = Paths(root).elm(config.seed.name).metrics
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    if not lines:
        return None
    return json.loads(lines[-1])["tokens_per_second"]


def forecast(config: Config, rounds: list[list[str]]) -> list[dict[str, Any]]:
    """Return a row for each job of the cycle and one for the sum."""
    costs = Costs.of(config)
    root = Path(config.forest_root)
    forest = Forest(root) if Forest.stands(root) else None
    done = set(forest.names()) if forest else set()
    rows = [_row(job, config, costs, forest, done) for job in jobs_of(config, rounds)]
    total = {key: sum(row[key] or 0 for row in rows) for key in ("tokens", "flops", "disk bytes")}
    seconds = None if costs.tokens_per_second is None else total["tokens"] / costs.tokens_per_second
    if seconds and config.cluster.kind == "slurm":
        seconds /= config.cluster.train.parallel or config.cluster.parallel or max(map(len, rounds))
    return [
        *rows,
        {"job": "all", "round": None, "what": "", "parents": "", **total, "seconds": seconds},
    ]


def too_few_tokens(config: Config) -> str:
    """Return a sentence that advises against a forest where one dense LM is likely better; "" where
    a forest pays.

    What counts is the tokens of the seed phase and of all experts for each parameter of one ELM
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
        "model's "
        f"{parameters / 1e6:,.2f} M parameters; below {WORTH_A_FOREST}, one dense model is "
        f"likely better than a forest of {experts} experts: train more steps (seed.steps=, "
        "trainer.steps=) "
        "or a smaller model= "
        "(docs/choosing.md)"
    )


def disk_bytes(config: Config, rounds: list[list[str]], at_once: int) -> int:
    """Return the bytes that the missing part of a cycle will need at most, with `at_once` trainings
    at once.
    """
    rows = forecast(config, rounds)
    missing = sum(row["tokens"] is not None for row in rows[:-1])
    return rows[-1]["disk bytes"] + min(missing, at_once) * Costs.of(config).training_bytes


def _row(
    job: Job, config: Config, costs: Costs, forest: Forest | None, done: set[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"job": job.name, "round": job.round or None, "what": "", "parents": ""}
    empty = {"tokens": None, "flops": None, "disk bytes": None, "seconds": None}
    trainer = config.trainer
    if job.verb == "score":
        return row | {"what": "token log-probabilities, where missing"} | empty
    if job.verb == "finish":
        average = "average, " if config.run.average else ""
        size = costs.elm_bytes if config.run.average else 0
        return (
            row
            | {"what": f"{average}evaluate, prior {config.ensemble.prior}"}
            | empty
            | {"disk bytes": size}
        )
    if job.elm in done:
        return row | {"what": "nothing: it stands there"} | empty
    if job.verb == "seed" and config.seed.source:
        return (
            row | {"what": f"import {config.seed.source}"} | empty | {"disk bytes": costs.elm_bytes}
        )
    if job.verb == "seed" and config.baseline in SHARES_SEED:
        copied = f"copy {Paths(config.base_root).elm(job.elm).path}"
        return row | {"what": copied} | empty | {"disk bytes": costs.elm_bytes * (1 + _MOMENTS)}
    steps = config.seed_steps(expert_domains(config)) if job.verb == "seed" else trainer.steps
    tokens = _sequences(job, config, steps) * trainer.seq_len
    kept = _MOMENTS if job.verb == "seed" and steps and trainer.carry != "fresh" else 0
    return row | {
        "what": _training(job, config, steps),
        "parents": "" if job.verb == "seed" else _parents(job, config, forest),
        "tokens": tokens,
        "flops": tokens * costs.flops_per_token,
        "disk bytes": costs.elm_bytes * _elms(job, config) * (1 + kept),
        "seconds": None if costs.tokens_per_second is None else tokens / costs.tokens_per_second,
    }


def _sequences(job: Job, config: Config, steps: int) -> int:
    """Return the sequences that a job trains on."""
    size, seed = config.trainer.batch_size, config.seed
    if job.verb == "seed":
        return Growth(seed.grow_batch, seed.grow_after).before(steps, size)
    return steps * size * (len(config.run.rounds[0]) if config.baseline == "demix" else 1)


def _elms(job: Job, config: Config) -> int:
    """Return how many ELMs a training makes."""
    return (
        len(config.run.rounds[0]) + 1 if job.verb == "train" and config.baseline == "demix" else 1
    )


def _training(job: Job, config: Config, steps: int) -> str:
    """Say what a training does."""
    if not steps:
        return "random parameters, untrained"
    text = f"train {steps:,} steps"
    if job.verb == "seed" and config.seed.grow_batch > 1:
        text += f", after {config.seed.grow_after:,} with {config.seed.grow_batch} times the batch"
    if job.verb == "train" and config.baseline == "demix":
        text += f", each on a batch of {len(config.run.rounds[0])} domains"
    return text + distributed.said(config, job.verb)


def _parents(job: Job, config: Config, forest: Forest | None) -> str:
    """Return parents with their weights where those are known, else how they will be found."""
    if config.baseline == "demix":
        return f"{config.seed.name} 1"
    if forest is not None and forest.has_branch(job.elm):
        return ", ".join(
            f"{name} {parent.weight:.3f}"
            for name, parent in forest.get_branch(job.elm).parents.items()
        )
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
