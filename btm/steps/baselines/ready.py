"""Preparation of a baseline's cycle: its text, and the seed that it shares with the forest."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from btm import steps
from btm.config.choices import SHARES_SEED
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest, trained_on
from btm.forest.paths import Paths
from btm.models import causal_lm
from btm.report import Reporter, quiet
from btm.steps.baselines import demix
from btm.steps.baselines.deal import deal
from btm.steps.baselines.derive import derive, expert_domains, part_names
from btm.system import durable
from btm.system.json_files import Json


def ready(config: Config, reporter: Reporter = quiet) -> Config:
    """Prepare the text and seed of a baseline, and return its derived config."""
    derived = derive(config)
    if config.baseline in SHARES_SEED:
        _share_seed(config, derived)
    if config.baseline == "random_split":
        suite = steps.prepare(replace(config, baseline=None), reporter)
        target = Path(derived.data.out) / derived.data.name
        deal(suite, target, part_names(expert_domains(config)), reporter.line)
    return derived


def run(config: Config, reporter: Reporter = quiet) -> Json:
    """Grow a forest or a baseline in this process, with a config from `ready`."""
    if config.baseline != "demix":
        return steps.run(config, reporter)
    steps.prepare(config, reporter)
    Forest(config.forest_root).sweep()
    demix.grow(config, reporter)
    return steps.finish(config, reporter)


def require_seed(config: Config) -> None:
    """Raise `UserError` unless the forest has the seed that its baseline begins with."""
    root = Path(config.base_root)
    if not Paths(root).elm(config.seed.name).card.is_file():
        raise UserError(
            f"baseline={config.baseline} begins with the forest's own seed, and {root} has no ELM "
            f"{config.seed.name!r} yet: first give the same command without baseline="
        )


def _share_seed(config: Config, derived: Config) -> None:
    """Copy the forest's seed with its card and moments, so that the baseline goes on from the same
    state.
    """
    require_seed(config)
    root = Path(config.base_root)
    forest = Forest(root)
    seed = forest[config.seed.name]
    architecture = causal_lm.load_config(seed.path)
    beside = Forest.create(
        derived.forest_root, architecture, forest.tokenizer, forest.facts["tokenizer_sha256"]
    )
    target = beside.paths.elm(seed.name).path
    if not target.exists():
        with suppress(FileExistsError), durable.publish_folder(target) as folder:
            shutil.copytree(seed.path, folder, dirs_exist_ok=True)
    trained_on.copy(forest.paths.digests, beside.paths.digests, seed.card)
    if beside[seed.name].card.sha256 != seed.card.sha256:
        raise UserError(
            f"{target} is not the {seed.name!r} that stands in {forest.root} now: delete "
            f"{beside.root}"
        )
