"""What a cycle will take before it is started: jobs, parents and weights, tokens, FLOPs, disk and
time.
"""

from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.launch.jobs import Job, jobs_of
from btm.steps.baselines import SHARES_SEED
from btm.steps.baselines.derive import expert_domains
from btm.steps.costs import MOMENTS, Costs
from btm.train import phase
from btm.train.distributed import job as distributed

WORTH_A_FOREST = 10  # training tokens for each parameter of an ELM, at least
_NAMES = 4  # of parents that are listed one by one


def forecast(config: Config, rounds: list[list[str]]) -> list[dict[str, Any]]:
    """Return a row for each job of the cycle and one for the sum."""
    costs = Costs.of(config)
    root = Path(config.forest_root)
    forest = Forest(root) if (root / "forest.json").exists() else None
    done = set(forest.names()) if forest else set()
    rows = [_row(job, config, costs, forest, done) for job in jobs_of(config, rounds)]
    total = {key: sum(row[key] or 0 for row in rows) for key in ("tokens", "flops", "disk bytes")}
    seconds = costs.seconds(total["tokens"])
    if seconds and config.cluster.kind == "slurm":
        seconds /= config.cluster.train.parallel or config.cluster.parallel or max(map(len, rounds))
    return [
        *rows,
        {
            "job": "all",
            "round": None,
            "what": "",
            "parents": "",
            "tokens": total["tokens"],
            "epochs": None,
            "flops": total["flops"],
            "disk bytes": total["disk bytes"],
            "seconds": seconds,
        },
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
    empty = dict.fromkeys(("tokens", "epochs", "flops", "disk bytes", "seconds"))
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
        copied = f"copy {config.base_root}/elms/{job.elm}"
        return row | {"what": copied} | empty | {"disk bytes": costs.elm_bytes * (1 + MOMENTS)}
    steps = config.seed_steps(expert_domains(config)) if job.verb == "seed" else trainer.steps
    tokens = _sequences(job, config, steps) * trainer.seq_len
    kept = MOMENTS if job.verb == "seed" and steps and trainer.carry != "fresh" else 0
    return row | {
        "what": _training(job, config, steps),
        "parents": "" if job.verb == "seed" else _parents(job, config, forest),
        "tokens": tokens,
        "epochs": _epochs(job, config, steps) if steps else None,
        "flops": tokens * costs.flops_per_token,
        "disk bytes": costs.elm_bytes * len(job.makes) * (1 + kept),
        "seconds": costs.seconds(tokens),
    }


def _sequences(job: Job, config: Config, steps: int) -> int:
    """Return the sequences that a job trains on."""
    size = config.trainer.batch_size
    if job.verb == "seed":
        return phase.growth_of(config).before(steps, size)
    return steps * size * job.batches


def _epochs(job: Job, config: Config, steps: int) -> dict[str, float] | None:
    """Return how often a job reads the text of each of its domains; None where a text is still to
    be prepared.
    """
    domains = job.together or (job.elm,)
    if job.verb == "seed":
        domains = tuple(config.seed.domains or expert_domains(config))
    try:
        suite = open_suites(config)
        shards = [suite.shard(domain, "train") for domain in domains]
        if job.together:  # each domain has batches of its own
            return {
                shard.domain: phase.batches(config, [shard], is_root=False).epochs(steps)[
                    shard.domain
                ]
                for shard in shards
            }
        return phase.batches(config, shards, is_root=job.verb == "seed").epochs(steps)
    except UserError:
        return None


def _training(job: Job, config: Config, steps: int) -> str:
    """Say what a training does."""
    if not steps:
        return "random parameters, untrained"
    text = f"train {steps:,} steps"
    if job.verb == "seed" and config.seed.grow_batch > 1:
        text += f", after {config.seed.grow_after:,} with {config.seed.grow_batch} times the batch"
    if job.together:
        text += f", each on a batch of {job.batches} domains"
    return text + distributed.said(config, job.verb)


def _parents(job: Job, config: Config, forest: Forest | None) -> str:
    """Return parents with their weights where those are known, else how they will be found."""
    if job.together:
        return f"{job.among[0]} 1"
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
