"""Refuse values of settings that make no sense, naming the key."""

import math
import re
from typing import Any

from btm.config.average import AverageConfig
from btm.config.checks import (
    check_choice,
    check_cluster,
    check_moment,
    check_name,
    check_weights,
    fill,
    processes_of,
    require,
)
from btm.config.choices import (
    ACCUMULATE,
    AVERAGE_METHODS,
    AVERAGE_WEIGHTS,
    BACKENDS,
    BASELINES,
    BLOCKS,
    BRANCH_METHODS,
    CARRY,
    CLUSTERS,
    COMPILE,
    DECAYS,
    DELTA_MASKS,
    DIFFS,
    DRAWINGS,
    DTYPES,
    ELM_ORDERS,
    ELM_STATES,
    EMBEDDING_BITS,
    FITS,
    FORMATS,
    GATE_NUMBERS,
    LICENSES,
    MIRRORS,
    OPTIMIZERS,
    PARALLEL,
    PRECISIONS,
    PRIORS,
    RESCALE,
    RULES,
    SCALED,
    SPECIAL_TOKENS,
    SPLITS,
)
from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.errors import UserError


def from_dict(values: dict[str, Any]) -> Config:
    """Build the configuration that `dataclasses.asdict` turned into `values`, and validate it.

    A key that this version lacks is a `UserError`.
    """
    return validate(fill(Config(), values))


def validate(config: Config) -> Config:
    """Return `config`, or raise `UserError` naming the first key whose value makes no sense."""
    _validate_names(config)
    _validate_numbers(config)
    _validate_choices(config)
    _validate_average(config.average)
    for verb in ("seed", "train"):
        _validate_processes(config, verb)
    _validate_backend(config)
    return config


def _validate_names(config: Config) -> None:
    if config.data.root == "":
        raise UserError(
            "data.root is missing: data=folder needs data.root=DIR, the folder that holds your "
            "domains"
        )
    paths = {
        "forest": config.forest,
        "data.out": config.data.out,
        "data.tokenizer": config.data.tokenizer,
        "discover.out": config.discover.out,
        "ensemble.router": config.ensemble.router,
        "fairseq.python": config.fairseq.python,
        "model.file": config.model.file,
        "seed.from": config.seed.source,
        "from": config.imports.source,
        "to": config.to,
    }
    for key, path in paths.items():
        require(path != "", key, repr(path), "wanted a path, or null")
    check_name(config.data.name, "data.name")
    check_name(config.seed.name, "seed.name")
    optional = {
        "expert": config.expert,
        "domain": config.domain,
        "parent": config.parent,
        "data.domain": config.data.domain,
        "average.base": config.average.base,
        "ls.domain": config.ls.domain,
        "ls.parent": config.ls.parent,
        "ls.ancestor": config.ls.ancestor,
        "eval.name": config.eval.name,
        "average.name": config.average.name,
    }
    for key, name in optional.items():
        if name is not None:
            check_name(name, key)
    lists = {
        "run.domains": config.run.domains,
        "seed.domains": config.seed.domains,
        "score.domains": config.score.domains,
        "eval.domains": config.eval.domains,
        "eval.suites": config.eval.suites,
        "average.experts": config.average.experts,
        **{f"run.rounds[{i}]": names for i, names in enumerate(config.run.rounds)},
    }
    for key, names in lists.items():
        for name in names:
            check_name(name, key)
        if len(set(names)) < len(names):
            raise UserError(f"{key}={names}: a name stands there twice")
    _validate_models(config)


def _validate_models(config: Config) -> None:
    """Check what may be names of models, or folders."""
    against = config.against
    if isinstance(against, str) and not against:
        raise UserError("against='': wanted a name, or null")
    lists = {
        "models": config.models,
        "score.experts": config.score.experts,
        "ensemble.experts": config.ensemble.experts,
    }
    if against is not None and not isinstance(against, str):
        lists["against"] = against
    for key, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise UserError(f"{key}={names!r}: wanted [NAME, …], each of them a name or a folder")
        if len(set(names)) < len(names):
            raise UserError(f"{key}={names}: a name stands there twice")


def _validate_numbers(config: Config) -> None:
    trainer, data, score, ensemble = config.trainer, config.data, config.score, config.ensemble
    at_least_1 = {
        "trainer.steps": trainer.steps,
        "trainer.batch_size": trainer.batch_size,
        "trainer.checkpoint_every": trainer.checkpoint_every,
        "trainer.log_every": trainer.log_every,
        "trainer.valid_tokens": trainer.valid_tokens,
        "score.batch_size": score.batch_size,
        "data.tokenizer_bytes": data.tokenizer_bytes,
        "discover.k": config.discover.k,
        "discover.sample": config.discover.sample,
        "discover.features": config.discover.features,
        "seed.grow_batch": config.seed.grow_batch,
    }
    not_negative = {
        "trainer.micro_batch_size": trainer.micro_batch_size,
        "trainer.weight_decay": trainer.weight_decay,
        "trainer.clip": trainer.clip,
        "trainer.threads": trainer.threads,
        "trainer.valid_every": trainer.valid_every,
        "trainer.delta_every": trainer.delta_every,
        "score.window": score.window,
        "score.max_tokens": score.max_tokens,
        "ensemble.top_k": ensemble.top_k,
        "ensemble.prior_sequences": ensemble.prior_sequences,
        "data.workers": data.workers,
        "ls.limit": config.ls.limit,
        "seed.grow_after": config.seed.grow_after,
        "export.shard_gb": config.export.shard_gb,
        **({} if config.seed.steps is None else {"seed.steps": config.seed.steps}),
    }
    fractions = {
        "trainer.warmup": trainer.warmup,
        "trainer.final_lr": trainer.final_lr,
        "data.valid_fraction": data.valid_fraction,
        "data.test_fraction": data.test_fraction,
        **{f"trainer.betas[{i}]": beta for i, beta in enumerate(trainer.betas)},
    }
    for key, value in at_least_1.items():
        require(value >= 1, key, value, "wanted 1 or more")
    for key, number in not_negative.items():
        require(0 <= number < float("inf"), key, number, "wanted 0 or more")
    for key, number in fractions.items():
        require(
            0 <= number < 1 or (key == "trainer.final_lr" and number == 1),
            key,
            number,
            "wanted [0, 1)",
        )
    for key, part in {
        "delta_density": trainer.delta_density,
        "delta_prune": trainer.delta_prune,
    }.items():
        require(0 < part <= 1, f"trainer.{key}", part, "wanted (0, 1]")
    for key, rate in {"trainer.lr": trainer.lr, "seed.lr": config.seed.lr}.items():
        if isinstance(rate, str):
            require(rate == "find", key, rate, "wanted a positive number, or find")
        else:
            require(rate is None or 0 < rate < 1000, key, rate, "wanted a positive number")
    # Beyond this torch cannot seed a step with trainer.seed * 1_000_003 + step.
    for key, seed in {"trainer.seed": trainer.seed, "discover.seed": config.discover.seed}.items():
        require(0 <= seed < 2**32, key, seed, "wanted 0 to 2³² - 1")
    require(
        0 < trainer.decay_power < 1000,
        "trainer.decay_power",
        trainer.decay_power,
        "wanted a positive number",
    )
    require(
        0 < trainer.decay_share <= 1, "trainer.decay_share", trainer.decay_share, "wanted (0, 1]"
    )
    require(
        trainer.threads <= 1024, "trainer.threads", trainer.threads, "wanted at most 1,024, or 0"
    )
    check_cluster(config.cluster)
    require(trainer.seq_len >= 2, "trainer.seq_len", trainer.seq_len, "wanted 2 or more")
    require(
        score.window != 1,
        "score.window",
        score.window,
        "wanted 2 or more, or 0 for trainer.seq_len",
    )
    require(len(trainer.betas) == 2, "trainer.betas", trainer.betas, "wanted two numbers")
    alpha, beta = ensemble.alpha, ensemble.beta
    require(alpha is None or 0 <= alpha <= 1, "ensemble.alpha", alpha, "wanted [0, 1], or null")
    # β = 0 would give all weight back to experts that top_k left out.
    require(beta is None or 0 < beta <= 1, "ensemble.beta", beta, "wanted (0, 1], or null")
    theta, wanted = ensemble.gate, GATE_NUMBERS
    fits = theta is None or (len(theta) == wanted and all(map(math.isfinite, theta)))
    require(fits, "ensemble.gate", theta, f"wanted {wanted} numbers, or null")
    require(
        config.generate.tokens >= 1, "generate.tokens", config.generate.tokens, "wanted 1 or more"
    )
    heat = config.generate.temperature
    require(0 <= heat < float("inf"), "generate.temperature", heat, "wanted 0 or more")
    temperature = config.discover.temperature
    require(temperature > 0, "discover.temperature", temperature, "wanted more than 0")
    require(0 < ensemble.decay <= 1, "ensemble.decay", ensemble.decay, "wanted (0, 1]")
    require(
        data.vocab_size >= 300,
        "data.vocab_size",
        data.vocab_size,
        "wanted 300 or more (256 are bytes)",
    )
    held_out = data.valid_fraction + data.test_fraction
    require(
        held_out <= 0.9, "data.valid_fraction + data.test_fraction", held_out, "wanted at most 0.9"
    )
    for i, names in enumerate(config.run.rounds):
        require(
            bool(names) or config.baseline is not None,
            f"run.rounds[{i}]",
            names,
            "wanted a domain or more",
        )


def _validate_backend(config: Config) -> None:
    check_choice(config.trainer.backend, "trainer.backend", BACKENDS)
    check_choice(config.data.special_tokens, "data.special_tokens", SPECIAL_TOKENS)
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
        "trainer.valid_every": (trainer.valid_every, 0),
        "seed.grow_batch": (config.seed.grow_batch, 1),
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


def _validate_average(average: AverageConfig) -> None:
    if average.method is not None:
        check_choice(average.method, "average.method", AVERAGE_METHODS)
    check_choice(average.accumulate, "average.accumulate", ACCUMULATE)
    check_choice(average.rescale, "average.rescale", RESCALE)
    if average.dtype is not None:
        check_choice(average.dtype, "average.dtype", DTYPES)
    layers = average.layers or {}
    require(
        isinstance(layers, dict), "average.layers", layers, "wanted {pattern: {elm: weight, …}, …}"
    )
    for pattern, weights in layers.items():
        check_weights(weights, f"average.layers.{pattern}")
    require(0 < average.density <= 1, "average.density", average.density, "wanted (0, 1]")
    require(0 <= average.gamma < 1, "average.gamma", average.gamma, "wanted [0, 1)")
    require(0 <= average.t <= 1, "average.t", average.t, "wanted [0, 1]")
    if isinstance(average.scale, str):
        scaled = average.scale == "fit" and average.method in (None, *SCALED)
        require(
            scaled,
            "average.scale",
            average.scale,
            f"wanted a number, or fit under one of {', '.join(SCALED)}",
        )
    else:
        require(
            math.isfinite(average.scale), "average.scale", average.scale, "wanted a finite number"
        )
    require(0 <= average.seed < 2**32, "average.seed", average.seed, "wanted 0 to 2³² - 1")
    require(average.sequences >= 1, "average.sequences", average.sequences, "wanted 1 or more")
    size = average.shard_gb
    require(size == 0 or 1e-6 <= size < 1e6, "average.shard_gb", size, "wanted gigabytes, or 0")
    if average.method == "slerp" and average.base is None:
        raise UserError(
            "average.method=slerp goes from one ELM to another: give average.base=A "
            "average.experts=[B]"
        )


def _validate_processes(config: Config, verb: str) -> None:
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
        f"trainer.offload={trainer.offload}": trainer.offload,
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


def _validate_router(ensemble: EnsembleConfig) -> None:
    """Raise `UserError` if the rule router is told to fit something, or another rule where to
    route.
    """
    theirs = {"ensemble.router": ensemble.router, "ensemble.temperature": ensemble.temperature}
    if ensemble.rule != "router":
        for key, value in theirs.items():
            require(
                value is None,
                key,
                value,
                f"ensemble.rule={ensemble.rule} has none: give ensemble=router",
            )
        return
    why = "ensemble.rule=router weighs by the words of the text alone"
    require(
        ensemble.prior == "uniform",
        "ensemble.prior",
        ensemble.prior,
        f"{why}: give ensemble=router",
    )
    require(ensemble.fit == "domain", "ensemble.fit", ensemble.fit, f"{why}: it has nothing to fit")
    for key in ("alpha", "beta", "gate"):
        value = getattr(ensemble, key)
        require(value is None, f"ensemble.{key}", value, f"{why}: leave it null")
    warmth = ensemble.temperature
    require(
        warmth is None or 0 < warmth < math.inf,
        "ensemble.temperature",
        warmth,
        "wanted more than 0, or null",
    )


def _validate_choices(config: Config) -> None:
    check_choice(config.branch, "branch", BRANCH_METHODS)
    check_choice(config.ensemble.prior, "ensemble.prior", PRIORS)
    check_choice(config.ensemble.rule, "ensemble.rule", RULES)
    if config.ensemble.rule == "gated" and config.ensemble.prior == "updating":
        raise UserError(
            "ensemble.prior=updating: ensemble.rule=gated, the default, follows the text itself: "
            "give ensemble=updating"
        )
    check_choice(config.ensemble.fit, "ensemble.fit", FITS)
    _validate_router(config.ensemble)
    check_choice(config.trainer.decay, "trainer.decay", DECAYS)
    check_choice(config.trainer.delta_mask, "trainer.delta_mask", DELTA_MASKS)
    check_choice(config.trainer.carry, "trainer.carry", CARRY)
    check_choice(config.trainer.compile, "trainer.compile", COMPILE)
    check_choice(config.trainer.parallel, "trainer.parallel", PARALLEL)
    check_choice(config.trainer.precision, "trainer.precision", PRECISIONS)
    check_choice(config.trainer.optimizer, "trainer.optimizer", OPTIMIZERS)
    bits, block = config.trainer.embedding_bits, config.export.block
    require(bits in EMBEDDING_BITS, "trainer.embedding_bits", bits, "wanted 8 or 32")
    require(block in BLOCKS, "export.block", block, f"wanted one of {', '.join(map(str, BLOCKS))}")
    check_choice(config.format, "format", FORMATS)
    if config.export.dtype is not None:
        check_choice(config.export.dtype, "export.dtype", DTYPES)
    check_choice(config.eval.split, "eval.split", SPLITS)
    check_choice(config.ls.sort, "ls.sort", ELM_ORDERS)
    check_choice(config.lineage.format, "lineage.format", DRAWINGS)
    check_choice(config.diff.by, "diff.by", DIFFS)
    if config.ls.state is not None:
        check_choice(config.ls.state, "ls.state", ELM_STATES)
    for key, moment in {"ls.since": config.ls.since, "ls.before": config.ls.before}.items():
        check_moment(moment, key)
    if config.card.license is not None:
        check_choice(config.card.license, "card.license", LICENSES)
    check_choice(config.cluster.kind, "cluster.kind", CLUSTERS)
    if config.baseline is not None:
        check_choice(config.baseline, "baseline", BASELINES)
    for mirror in config.trainer.mirrors:
        check_choice(mirror, "trainer.mirrors", MIRRORS)
    for split in config.score.splits:
        check_choice(split, "score.splits", SPLITS)
    if isinstance(config.weights, str):
        check_choice(config.weights, "weights", AVERAGE_WEIGHTS)
    elif config.weights is not None:
        check_weights(config.weights)
    device = config.trainer.device
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
        raise UserError(
            f"trainer.device={device!r}: choose one of auto, cpu, cuda, cuda:<index>, mps"
        )
