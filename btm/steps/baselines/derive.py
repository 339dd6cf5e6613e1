"""A baseline as the configuration of an ordinary cycle, so that it runs, resumes and evaluates like
any other.
"""

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.config.validation import validate
from btm.data import prepare as preparation
from btm.data.shards import Suite
from btm.ensemble.rules import rule_of
from btm.errors import UserError

DEMIX = "demix"
DENSE = "dense"


def derive(config: Config) -> Config:
    """Return the configuration that grows ``config.baseline``; `config` itself where that is null.

    It follows from the forest's words and the names of the domains alone, so the same command finds
    it again.
    """
    if config.baseline is None:
        return config
    if rule_of(config.ensemble).needs_route and config.baseline != DEMIX:
        raise UserError(
            f"baseline={config.baseline} has no experts of clusters, which ensemble=router "
            "weighs: give another "
            "ensemble, as ensemble=uniform"
        )
    made = deepcopy(config)
    made.forest, made.run.domains = config.base_root, []
    # named as the forest sees them: the comparison of the forest has them beside both
    made.models = []
    domains = expert_domains(config)
    made.seed.steps = config.seed_steps(domains)
    {
        "dense": _dense,
        "dense_large_batch": _dense_large_batch,
        "random_split": _random_split,
        "demix": _demix,
    }[config.baseline](made, domains)
    return validate(made)


def trained_together(config: Config) -> str | None:
    """Return the ELM whose one training makes the experts of all domains; None where each expert
    has a training of its own.
    """
    return DEMIX if config.baseline == DEMIX else None


def expert_domains(config: Config) -> list[str]:
    """Return the domains that the forest has experts for, round by round."""
    if config.run.rounds:
        return [domain for domains in config.run.rounds for domain in domains]
    return config.run.domains or _training_domains(config)


def _training_domains(config: Config) -> list[str]:
    """List the domains that are not novel: of the source, or of the prepared suite where the
    source is gone.
    """
    prepared = Path(config.data.out) / config.data.name
    if config.data.root and not Path(config.data.root).exists() and prepared.is_dir():
        return Suite.open(prepared).training_domains()
    return preparation.training_domains(config.data)


def part_names(domains: list[str]) -> dict[str, str]:
    """Return {domain: the random part whose expert takes its place}."""
    return {domain: f"random-{i}" for i, domain in enumerate(sorted(domains))}


def _dense(config: Config, domains: list[str]) -> None:
    """Make it a root alone: tokens of the seed and all experts, one schedule over all its steps."""
    _alone(config, domains)
    config.seed.steps = int(config.seed.steps or 0) + len(domains) * config.trainer.steps


def _dense_large_batch(config: Config, domains: list[str]) -> None:
    """Make it a root of as many updates as the seed and one expert have (BTM, section 4.1), equal
    in tokens.

    After the seed phase a step has a batch for each expert; micro-batches keep the memory at one of
    them.
    """
    _alone(config, domains)
    begun = int(config.seed.steps or 0)
    config.seed.grow_after, config.seed.grow_batch = begun, len(domains)
    config.seed.steps = begun + config.trainer.steps
    config.trainer.micro_batch_size = config.trainer.micro_batch_size or config.trainer.batch_size


def _alone(config: Config, domains: list[str]) -> None:
    if config.seed.source:
        raise UserError(
            f"baseline={config.baseline} trains from random parameters, and "
            f"seed.from={config.seed.source} was "
            "trained elsewhere on tokens that nobody counted: leave out seed.from, in the forest "
            "too"
        )
    seed = config.seed
    seed.name = DENSE  # seed.lr stays: both begin from random parameters
    known = _training_domains(config)
    if seed.domains or {*domains} - {*known}:  # none named: all that are not novel
        seed.domains = sorted({*(seed.domains or known), *domains})
    seed.sampling = None  # equal shares: experts have as many tokens each
    config.trainer.carry = "fresh"
    config.run.rounds, config.run.average = [[]], False
    config.ensemble.experts, config.average.experts, config.weights = [], [], None


def _random_split(config: Config, domains: list[str]) -> None:
    """Put a random part in the place of each domain; evaluate on the real domains."""
    names = part_names(domains)
    everything = preparation.all_domains(config.data)
    if clash := sorted(set(names.values()) & {*everything, config.seed.name}):
        raise UserError(
            f"baseline=random_split makes parts called {clash[0]!r}: give that domain, or "
            "the seed (seed.name=), another name"
        )
    config.eval.domains = config.eval.domains or everything
    config.data.name = f"{config.data.name}-random_split{_which(config, domains)}"
    rounds = config.run.rounds or [domains]
    config.run.rounds = [[names[domain] for domain in each] for each in rounds]
    config.merge.force = True  # a control is measured, whatever comes of it
    for node in (config.ensemble, config.average):
        node.experts = [names.get(name, name) for name in node.experts]
    config.parent = names.get(config.parent or "", config.parent)
    if isinstance(config.weights, dict):
        config.weights = _renamed(config.weights, names)


def _which(config: Config, domains: list[str]) -> str:
    """Make the suffix that tells a split of some training domains from a split of all."""
    if set(domains) == set(preparation.training_domains(config.data)):
        return ""
    return "-" + hashlib.sha256(" ".join(sorted(domains)).encode()).hexdigest()[:6]


def _renamed(weights: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): weight for name, weight in weights.items()}


def _demix(config: Config, domains: list[str]) -> None:
    """Train all domains in one round, whose average is the ELM `demix` itself."""
    if DEMIX in (config.seed.name, *domains):
        raise UserError(
            f"baseline=demix makes an ELM called {DEMIX!r}: give that domain another name"
        )
    config.run.rounds, config.run.average = [list(domains)], False
    config.merge.force = True
