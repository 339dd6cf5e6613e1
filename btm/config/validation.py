"""Refuse values of settings that make no sense, naming the key.

Each section checks its own values, beside its dataclass; here stands what concerns several
sections, and the keys that belong to none.
"""

from typing import Any

from btm.config.average import check_average, check_average_weights
from btm.config.bench import check_bench
from btm.config.card import check_card
from btm.config.checks import (
    check_choice,
    check_models,
    check_name,
    check_path,
    check_printable,
    fill,
    require,
)
from btm.config.choices import AVERAGE_WEIGHTS, BASELINES, BRANCH_METHODS
from btm.config.cluster import check_cluster, check_paper, check_run, processes_of
from btm.config.commons import check_commons
from btm.config.data import check_data, check_discover
from btm.config.distil import check_distil
from btm.config.ensemble import check_ensemble, check_eval, check_generate, check_score
from btm.config.exchange import FORMATS, check_export, check_import, check_push
from btm.config.load import check_load
from btm.config.mix import check_mix
from btm.config.moe import check_moe
from btm.config.reader import GROUNDS, check_reader
from btm.config.recipes import recipes
from btm.config.registry import check_diff, check_lineage, check_ls
from btm.config.schema import Config
from btm.config.serve import check_serve
from btm.config.training import check_fairseq, check_model, check_seed_phase, check_trainer
from btm.errors import UserError, nearest

# Texts of a user's own, which are no paths and no names.
FREE = (
    *("prompt", "reader.question", "reader.support", "reader.candidates"),
    *("cluster.setup", "remove.reason", "card.use", "card.restrictions"),
)


def from_dict(values: dict[str, Any]) -> Config:
    """Build the configuration that `dataclasses.asdict` turned into `values`, and validate it.

    A key that this version lacks is a `UserError`.
    """
    return validate(fill(Config(), values))


def validate(config: Config) -> Config:
    """Check `config` and hand it back; a `UserError` names the first key whose value makes no
    sense.
    """
    check_printable(config, "", FREE)
    _check_sections(config)
    _check_keys_of_no_section(config)
    _check_suite_of_prompted(config)
    _check_evaluation_name(config)
    _check_stride(config)
    _check_rounds(config)
    for verb in ("seed", "train"):
        _check_processes(config, verb)
    _check_backend(config)
    _check_sparse(config)
    _check_adapter(config)
    return config


def _check_sections(config: Config) -> None:
    check_data(config.data)
    check_model(config.model)
    check_trainer(config.trainer)
    check_fairseq(config.fairseq)
    check_seed_phase(config.seed)
    check_import(config.imports)
    check_export(config.export)
    check_push(config.push)
    check_load(config.load)
    check_score(config.score)
    check_ensemble(config.ensemble)
    check_eval(config.eval)
    check_generate(config.generate)
    check_serve(config.serve)
    check_bench(config.bench)
    check_average(config.average)
    check_distil(config.distil)
    check_moe(config.moe)
    check_reader(config.reader)
    check_mix(config.mix)
    check_discover(config.discover)
    check_run(config.run)
    check_paper(config.paper)
    check_cluster(config.cluster)
    check_card(config.card)
    check_commons(config.commons)
    check_ls(config.ls)
    check_lineage(config.lineage)
    check_diff(config.diff)


def _check_suite_of_prompted(config: Config) -> None:
    """Require a suite of one's own, or the `from` of grow, for prompted data."""
    if config.data.format == "prompted" and config.data.root is None and not config.imports.source:
        raise UserError(
            "data.format=prompted: the suite that ships with btm is text; give "
            "data=folder data.root=DIR"
        )


def _check_keys_of_no_section(config: Config) -> None:
    """Check the keys without a dot."""
    for key in ("forest", "to"):
        check_path(getattr(config, key), key)
    for key in ("expert", "domain", "parent"):
        if (name := getattr(config, key)) is not None:
            check_name(name, key)
    check_models(config.models, "models")
    check_models(config.tasks, "tasks")
    recipes(config.averages, config.average)
    against = config.against
    if against == "":
        raise UserError("against='': wanted a name, or null")
    if against is not None and not isinstance(against, str):
        check_models(against, "against")
    check_choice(config.branch, "branch", BRANCH_METHODS)
    check_choice(config.format, "format", FORMATS)
    if config.on is not None:
        check_choice(config.on, "on", GROUNDS)
    if config.baseline is not None:
        check_choice(config.baseline, "baseline", BASELINES)
    if isinstance(config.weights, str):
        _check_word_for_weights(config.weights)
    elif config.weights is not None:
        check_average_weights(config.weights, config.average)


def _check_word_for_weights(word: str) -> None:
    """Require a word that weights= takes; the name of an ELM alone is none."""
    if word not in AVERAGE_WEIGHTS:
        choices = ", ".join(AVERAGE_WEIGHTS)
        raise UserError(
            f"weights={word!r}: choose one of {choices}, or give each ELM a weight: "
            f"weights=law:0.7,med:0.3{nearest(word, AVERAGE_WEIGHTS)}"
        )


def _check_evaluation_name(config: Config) -> None:
    """Refuse a name under which another verb than `btm eval` writes in the same folder."""
    name = config.eval.name or ""
    ends = ("-compare", "-mix", "-bench")
    taken = name.startswith(("grow-", "before-", "after-")) or name.endswith(ends)
    require(
        not taken,
        "eval.name",
        name,
        "btm grow, compare, mix and bench write files of such names (grow-, before-, after-…, "
        "…-compare, …-mix, …-bench): give another",
    )


def _check_stride(config: Config) -> None:
    """Refuse a stride that would leave tokens between two windows unscored."""
    key = "score.window" if config.score.window else "trainer.seq_len"
    require(
        config.score.stride <= config.window,
        "score.stride",
        config.score.stride,
        f"leaves tokens out between windows of {config.window} ({key}): wanted {config.window} at "
        "most, or 0 for windows that do not overlap",
    )


def _check_rounds(config: Config) -> None:
    """Refuse a round without a domain, unless a baseline is grown, which has its own."""
    for i, names in enumerate(config.run.rounds):
        is_meant = bool(names) or config.baseline is not None
        require(is_meant, f"run.rounds[{i}]", names, "wanted a domain or more")


def _check_backend(config: Config) -> None:
    """Refuse what the fairseq backend cannot do, and its options without it."""
    if config.trainer.backend == "btm":
        require(
            not config.fairseq.options,
            "fairseq.options",
            config.fairseq.options,
            "give trainer=fairseq",
        )
        return
    trainer = config.trainer
    only: dict[str, tuple[object, object]] = {
        "trainer.carry": (
            trainer.carry,
            "fresh",
        ),  # its optimizer's state is a pickle, which no ELM keeps
        "trainer.optimizer": (trainer.optimizer, "adamw"),
        "trainer.offload": (trainer.offload, False),
        "trainer.delta_density": (trainer.delta_density, 1.0),
        "trainer.adapter": (trainer.adapter, "none"),
        "trainer.valid_every": (trainer.valid_every, 0),
        "trainer.average_last": (trainer.average_last, 0),
        "trainer.average_decay": (trainer.average_decay, 0),
        "seed.grow_batch": (config.seed.grow_batch, 1),
        "seed.sampling": (config.seed.sampling, None),
    }
    for key, (value, able) in only.items():
        require(value == able, key, value, f"trainer.backend=fairseq can do with {able} alone")
    require(
        config.baseline != "demix",
        "baseline",
        config.baseline,
        "trainer.backend=fairseq cannot do that",
    )
    device = trainer.device
    require(device != "mps", "trainer.device", device, "trainer.backend=fairseq wants cpu or cuda")


def _check_sparse(config: Config) -> None:
    """Refuse to average the trajectory of a sparse expert.

    Its mask moves, so the average would differ from the parents in more parameters than its budget.
    """
    trainer = config.trainer
    for key in ("average_last", "average_decay"):
        value = getattr(trainer, key)
        require(
            trainer.delta_density == 1 or not value,
            f"trainer.{key}",
            value,
            f"does not go with trainer.delta_density={trainer.delta_density}; leave one out",
        )


def _check_adapter(config: Config) -> None:
    """Refuse what does not go with an adapter.

    Averages along a training would be of its factors, not of their products, and a parent's moments
    are of other parameters.
    """
    trainer = config.trainer
    if trainer.adapter == "none":
        return
    refused: dict[str, bool] = {
        "delta_density": trainer.delta_density != 1,
        "average_last": bool(trainer.average_last),
        "average_decay": bool(trainer.average_decay),
        "carry": trainer.carry == "continue",
    }
    for key, is_refused in refused.items():
        value = getattr(trainer, key)
        require(
            not is_refused,
            f"trainer.{key}",
            value,
            f"does not go with trainer.adapter={trainer.adapter}; leave one out",
        )


def _check_processes(config: Config, verb: str) -> None:
    """Refuse what several processes cannot train together."""
    cluster, trainer = config.cluster, config.trainer
    size, own = processes_of(cluster, verb), getattr(cluster, verb)
    key = f"cluster.{verb}.gpus_per_expert" if own.gpus_per_expert else "cluster.gpus_per_expert"
    if size == 1:
        return
    require(
        trainer.batch_size % size == 0,
        "trainer.batch_size",
        trainer.batch_size,
        f"{key}={size} processes share it equally: give {_multiples(trainer.batch_size, size)}",
    )
    gpus, nodes = own.gpus or cluster.gpus, own.nodes or cluster.nodes
    alone = {
        f"trainer.delta_density={trainer.delta_density}": verb == "train"
        and trainer.delta_density < 1,
        f"trainer.adapter={trainer.adapter}": verb == "train" and trainer.adapter != "none",
        f"trainer.offload={trainer.offload}": trainer.offload,
        f"trainer.average_last={trainer.average_last}": bool(trainer.average_last),
        f"trainer.average_decay={trainer.average_decay}": bool(trainer.average_decay),
        f"trainer.backend={trainer.backend}": trainer.backend != "btm",
        f"trainer.optimizer={trainer.optimizer} with trainer.parallel=fsdp": trainer.parallel
        == "fsdp"
        and trainer.optimizer != "adamw",
        f"trainer.device={trainer.device}": trainer.device not in ("auto", "cpu", "cuda"),
        f"baseline={config.baseline}": verb == "train" and config.baseline == "demix",
        f"cluster.nodes={nodes}": nodes > 1,
        f"cluster.gpus={gpus}": 0 < gpus < size,
    }
    for setting, goes_alone in alone.items():
        require(not goes_alone, key, size, f"does not go with {setting}; leave one of them out")


def _multiples(number: int, factor: int) -> str:
    """Return the multiples of `factor` beside `number`, as a choice."""
    below = number // factor * factor
    return f"{below} or {below + factor}" if below else str(factor)
