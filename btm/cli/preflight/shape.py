"""The model that is trained: that there is one, what it can read, and what its training can go on
from.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from btm.config.choices import SHARES_SEED
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.errors import UserError
from btm.fairseq import convert
from btm.forest import Forest
from btm.forest.paths import Paths
from btm.forest.suites import open_suite
from btm.models import causal_lm, configs, trial
from btm.models.files import CONFIG
from btm.steps import seed_source
from btm.train.fairseq import command
from btm.train.schedule import Schedule

_SMALL = 1 << 26  # parameters of a model that is made on the way to see whether it runs


def source_of_cycle(config: Config) -> None:
    """Require the folder that the seed is imported from; a seed that stands must be from the
    weights in it.
    """
    stands = _seed_stands(config)
    if config.cluster.kind == "debug" or not stands:
        source(config)
    if stands:
        seed_source.require(config)


def source(config: Config) -> None:
    """Require the folder that the seed is imported from, if it is."""
    folder = config.seed.source
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise UserError(
            f"seed.from={folder}: no such folder; wanted the folder of a Hugging Face model"
        )
    causal_lm.read_config(Path(folder) / CONFIG)


def positions(config: Config) -> None:
    """Require positions for trainer.seq_len and for the window of scores, of the models that stand
    or are planned.
    """
    causal_lm.check_context(config, _model(config)[0])


def fits_forest(config: Config) -> None:
    """Refuse to plant a seed of another architecture than the forest was planted with."""
    suite = _suite(config)
    if (
        suite is None
        or config.seed.source
        or _seed_stands(config)
        or not Forest.stands(config.forest_root)
    ):
        return
    forest = Forest(config.forest_root)
    open_suite(config)  # another tokenizer is the plainer reason, where both differ
    planned = configs.fingerprint(configs.make_config(config.model, suite.vocab_size, suite.eos))
    forest.require(planned, forest.identity["tokenizer_sha256"], configs.called(config.model))


def runs(config: Config) -> None:
    """Require that a seed to be trained runs on as many tokens as it will read.

    A large model is only made without memory here; the seed phase tries it before it plants.
    """
    if config.seed.source or _seed_stands(config) or config.baseline in SHARES_SEED:
        return
    suite, called = _suite(config), configs.called(config.model)
    vocabulary = suite.vocab_size if suite else config.data.vocab_size
    made = configs.make_config(config.model, vocabulary, eos=0)
    if causal_lm.count_parameters(made) <= _SMALL:
        model = causal_lm.new_model(made, seed=0)
        tokens = max(config.trainer.seq_len, config.window)
        trial.run(model, tokens, called, vocabulary=vocabulary)
        trial.train(model, config.trainer.seq_len, called)


def carries(config: Config) -> None:
    """Refuse trainer.carry=continue where the seed will have kept no optimizer state, or have
    another peak than its experts ask for.
    """
    if config.trainer.carry != "continue" or _seed_stands(config):
        return
    peak, own = config.seed.lr, config.trainer.lr
    if peak is not None and isinstance(own, int | float) and own != peak:
        raise UserError(
            f"trainer.carry=continue: experts go on with the seed's peak, seed.lr={peak}, and "
            f"trainer.lr={own} asks for another: leave one of them out, or use auto or fresh"
        )
    why = (
        f"seed.from={config.seed.source} brings none"
        if config.seed.source
        else "seed.steps=0 leaves none"
    )
    if config.seed.source or config.seed.steps == 0:
        raise UserError(
            f"trainer.carry=continue goes on with the seed's optimizer state, and {why}; use auto "
            "or fresh"
        )


def fairseq_can(config: Config) -> None:
    """Require a model, a tokenizer and settings that fairseq can train with, where it trains."""
    trainer = config.trainer
    if trainer.backend != "fairseq":
        return
    values, where = _model(config)
    model = convert.trainable(values, where)
    # What a device of another machine can do is not asked; "cuda" refuses the least.
    device = "cuda" if config.cluster.kind == "slurm" else causal_lm.pick_device(trainer.device)
    if not isinstance(trainer.lr, int | float):
        trainer = replace(trainer, lr=1e-3)  # whichever it will be, fairseq has no word on rates
    for n in {config.seed.steps or trainer.steps or 1, trainer.steps or 1}:
        command.options(model, trainer, Schedule.of(trainer, horizon=n), n, device)
    if (suite := _suite(config)) is not None:
        convert.fairseq_tokenizer(suite.tokenizer)


def _model(config: Config) -> tuple[dict[str, Any], str]:
    """Return the config.json of the models of a forest, or of its seed that is still to come; and
    what to call it.
    """
    for root in (config.forest_root, config.base_root):
        names = Forest(root).names() if Forest.stands(root) else []
        for name in sorted(names, key=lambda name: name != config.seed.name):
            file = Paths(root).elm(name).config
            if file.is_file():
                return causal_lm.read_config(file), root
    if config.seed.source:
        return causal_lm.read_config(Path(config.seed.source) / CONFIG), config.seed.source
    suite = _suite(config)
    vocabulary, eos = (suite.vocab_size, suite.eos) if suite else (config.data.vocab_size, 0)
    made = configs.make_config(config.model, vocabulary, eos)
    return made.to_dict(), configs.called(config.model)


def _seed_stands(config: Config) -> bool:
    root = config.forest_root
    return Forest.stands(root) and config.seed.name in Forest(root)


def _suite(config: Config) -> Suite | None:
    """Return the suite if it is prepared."""
    folder = Path(config.data.out) / config.data.name
    try:
        return Suite.open(folder) if folder.is_dir() else None
    except UserError:
        return None  # half prepared, or damaged: `prepare` will say so, or mend it
