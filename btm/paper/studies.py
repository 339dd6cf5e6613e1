"""The studies of the tables: a forest for each seed, its baselines, and varied forests.

All of them have the same suite, model, batch size and training tokens; a study is one cycle of one
of them.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from btm.config.schema import Config
from btm.errors import UserError
from btm.steps.baselines import derive

FOREST = "forest"
SEED_PHASE = "seed-phase"  # the seed alone, for forests that begin with a copy of it
ONE_MODEL = "one-model"  # what is made of a main forest, in its folder


@dataclass(frozen=True)
class Study:
    """One cycle: its kind, its seed, and the studies that it needs."""

    name: str
    kind: str  # forest, seed-phase, one-model, the name of a baseline, fraction or rounds
    seed: int
    config: Config
    needs: tuple[str, ...] = ()
    copied: str | None = None  # the study whose ELMs it begins with
    value: str = ""  # the varied value of an ablation

    @property
    def forest(self) -> Path:
        """The folder of its forest."""
        return Path(self.config.forest_root)

    @property
    def cycle(self) -> Config:
        """The settings of its cycle; a baseline's are derived from those of its forest."""
        return derive(self.config)


def root(config: Config) -> Path:
    """Return the folder of a reproduction: its forests, logs and report."""
    return Path(config.paper.out or f"results/{config.paper.name}")


def studies(config: Config, domains: list[str]) -> list[Study]:
    """List every study for the training `domains`, each after those it needs."""
    first = config.paper.seeds[0]
    main = [study for seed in config.paper.seeds for study in _main(config, domains, seed)]
    return [*main, *_fractions(config, domains, first), *_rounds(config, domains, first)]


def steps(config: Config, domains: int, fraction: float) -> tuple[int, int]:
    """Compute the steps of the seed phase and of each expert, `paper.steps` in all.

    Raises `UserError` if an expert would get none.
    """
    each = round((1 - fraction) * config.paper.steps / domains)
    if each < 1:
        raise UserError(
            f"paper.steps={config.paper.steps}: no step is left for each of {domains} experts"
        )
    return config.paper.steps - each * domains, each


def _main(config: Config, domains: list[str], seed: int) -> Iterator[Study]:
    """Yield the forest of a seed and its baselines."""
    name = f"{FOREST}-{seed}"
    forest = _forest(config, name, domains, seed, config.paper.seed_fraction)
    yield Study(name, FOREST, seed, forest)
    if config.paper.made_steps:
        made = deepcopy(forest)
        made.paper.made_steps = config.paper.made_steps
        yield Study(f"{ONE_MODEL}-{seed}", ONE_MODEL, seed, made, (name,))
    extra = config.paper.extra_baselines if seed == config.paper.seeds[0] else []
    for baseline in [*config.paper.baselines, *extra]:
        own = deepcopy(forest)
        own.baseline = baseline
        needs = () if baseline.startswith("dense") else (name,)
        yield Study(f"{baseline}-{seed}", baseline, seed, own, needs)


def _fractions(config: Config, domains: list[str], seed: int) -> Iterator[Study]:
    """Yield forests whose seed phase is shorter or longer, at the same sum of tokens."""
    for fraction in config.paper.fractions:
        name = f"fraction-{fraction:g}"
        forest = _forest(config, name, domains, seed, fraction)
        yield Study(name, "fraction", seed, forest, value=f"{fraction:g}")


def _rounds(config: Config, domains: list[str], seed: int) -> Iterator[Study]:
    """Yield the forest of a seed with a second round of experts, once for each initialisation."""
    if not config.paper.added:
        return
    source = f"{FOREST}-{seed}"
    for scheme in config.paper.schemes:
        name = f"rounds-{scheme}"
        forest = _forest(config, name, domains, seed, config.paper.seed_fraction)
        forest.branch = scheme
        forest.run.rounds = [domains, list(config.paper.added)]
        yield Study(name, "rounds", seed, forest, (source,), source, scheme)


def _forest(config: Config, name: str, domains: list[str], seed: int, fraction: float) -> Config:
    own = deepcopy(config)
    own.forest = str(root(config) / "forests" / name)
    own.seed.steps, own.trainer.steps = steps(config, len(domains), fraction)
    own.seed.domains = domains
    own.trainer.seed = seed
    own.run.rounds, own.run.domains, own.run.average = [domains], [], False
    own.ensemble.experts = []
    own.paper.made_steps = 0  # changes nothing of what is grown
    own.eval.name = "all"
    own.merge.force = True  # a row is a row, also where an expert did not gain
    return own
