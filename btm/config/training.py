"""Settings of training: architecture, trainer, seed phase, and what a merge asks for."""

import re
from dataclasses import dataclass, replace
from typing import Any

from btm.config.checks import (
    check_choice,
    check_fraction,
    check_least,
    check_name,
    check_names,
    check_path,
    check_power,
    check_seed,
    require,
)
from btm.config.keys import key
from btm.errors import UserError

BACKENDS = ("btm", "fairseq")
OPTIMIZERS = ("adamw", "adamw8bit")
EMBEDDING_BITS = (8, 32)
COMPILE = ("auto", "always", "never")
DECAYS = ("constant", "cosine", "linear", "polynomial", "wsd")
CARRY = ("auto", "continue", "fresh")
PRECISIONS = ("auto", "fp32", "bf16")
PARALLEL = ("ddp", "fsdp")
MIRRORS = ("tensorboard", "wandb", "mlflow")
DELTA_MASKS = ("momentum", "normalised", "random")
ADAPTERS = ("none", "lora")


@dataclass
class ModelConfig:
    """An architecture of `transformers`: the fields of its config.json."""

    name: str = key("pico", "name of the architecture, which model= sets")
    file: str | None = key(
        None, "a config.json of transformers, in place of model.config; null: model.config"
    )
    config: dict[str, Any] = key({}, "fields of the config.json of transformers, {hidden_size: 64}")


@dataclass
class TrainerConfig:
    """How one ELM is trained. A step is one optimizer update."""

    backend: str = key(
        "btm",
        "what trains: btm, or fairseq-train in a process of its own (docs/fairseq.md)",
        BACKENDS,
    )
    steps: int = key(
        0, "optimizer updates for each expert; 0: by the amount of text (docs/choosing.md)"
    )
    batch_size: int = key(16, "sequences per step")
    micro_batch_size: int = key(
        0, "sequences per forward pass, whose gradients are accumulated; 0: trainer.batch_size"
    )
    seq_len: int = key(256, "tokens per sequence")
    optimizer: str = key(
        "adamw",
        "optimizer; adamw8bit keeps its moments in 8 bits (needs the extra int8)",
        OPTIMIZERS,
    )
    embedding_bits: int = key(
        8, "bits of the moments of embeddings under adamw8bit", EMBEDDING_BITS
    )
    offload: bool = key(False, "keep the optimizer's moments in host memory and step there")
    kernels: bool = key(
        True, "use the loss and attention of btm/train/kernels: equal up to rounding, and faster"
    )
    compile: str = key(
        "auto", "torch.compile the layers; auto: if a measurement says that it pays back", COMPILE
    )
    write_behind: bool = key(True, "copy and write checkpoints while training goes on")
    gradient_checkpointing: bool = key(
        False, "compute activations again in the backward pass instead of keeping them"
    )
    lr: float | int | str | None = key(
        None, "peak learning rate; null: by the model's size; find: by a short test"
    )
    warmup: float = key(0.08, "fraction of the schedule's steps in which the learning rate rises")
    decay: str = key(
        "cosine", "shape of the learning rate after warmup; wsd: constant, then linear", DECAYS
    )
    decay_power: float = key(1.0, "power of decay=polynomial")
    decay_share: float = key(0.1, "fraction of the schedule's steps in which decay=wsd falls")
    final_lr: float = key(
        0.1, "learning rate at the end of the schedule, as a fraction of the peak"
    )
    betas: list[float] = key([0.9, 0.95], "β₁ and β₂ of AdamW")
    weight_decay: float = key(0.1, "weight decay of AdamW")
    average_last: int = key(
        0, "points along its training that a model's final weights are the average of; 0: the end"
    )
    average_every: int = key(
        0, "steps between these points; 0: a hundredth of the training's steps"
    )
    average_decay: float = key(
        0.0, "β of an exponential moving average of all steps, instead of trainer.average_last"
    )
    clip: float = key(1.0, "largest norm of the gradient; 0: no clipping")
    carry: str = key(
        "fresh",
        "learning-rate schedule of a branch; fresh: anew; continue: the rest of the one on the "
        "parent's card, with its optimizer state; auto: continue where possible",
        CARRY,
    )
    precision: str = key(
        "auto", "number type of the forward pass; bf16 is autocast over float32 weights", PRECISIONS
    )
    device: str = key("auto", "device that trains and scores: auto, cpu, cuda, cuda:1, mps")
    parallel: str = key(
        "ddp",
        "what each process of cluster.gpus_per_expert holds: ddp the model, fsdp a share of it",
        PARALLEL,
    )
    threads: int = key(0, "CPU threads of all processes together; 0: torch's own choice")
    seed: int = key(0, "seed of the initialisation and the order of the data")
    valid_every: int = key(0, "steps between validations; 0: at the end only")
    valid_tokens: int = key(16_384, "tokens of the valid split that a validation reads")
    checkpoint_every: int = key(200, "steps between checkpoints")
    log_every: int = key(10, "steps between log lines")
    mirrors: list[str] = key([], "trackers that metrics are also sent to", MIRRORS)
    delta_density: float = key(
        1.0, "fraction of the parameters that may differ from the parents'; 1: all (docs/sparse.md)"
    )
    delta_every: int = key(0, "steps between prunings of these; 0: a hundredth of trainer.steps")
    delta_prune: float = key(
        0.5, "fraction pruned at first; falls as a cosine to a hundredth of that"
    )
    delta_mask: str = key(
        "momentum", "how the parameters that differ are chosen; random: drawn once", DELTA_MASKS
    )
    adapter: str = key(
        "none",
        "train an adapter beside frozen parameters, and not these; lora: of low rank, needs the "
        "extra lora (docs/lora.md)",
        ADAPTERS,
    )
    lora_rank: int = key(8, "rank of the change of each matrix that lora_targets names")
    lora_alpha: float = key(
        16.0, "scale of the changes, times trainer.lora_rank: they are α/r · B A"
    )
    lora_targets: list[str] = key(
        [],
        "linear layers that change, by the ends of their names: [q_proj, v_proj]; empty: all but "
        "the output layer",
    )

    def dense(self) -> "TrainerConfig":
        """Return the same without what a root has no parents for: a sparse difference, an
        adapter.
        """
        return replace(self, delta_density=1.0, adapter="none")


@dataclass
class FairseqConfig:
    """The fairseq that trains, where trainer.backend=fairseq."""

    python: str | None = key(
        None, "Python interpreter that has fairseq; null: the one that runs btm"
    )
    options: dict[str, Any] = key({}, "further options of fairseq-train, {fp16: true}")


@dataclass
class SeedConfig:
    """The seed phase: what every expert descends from."""

    name: str = key("seed", "name of the seed")
    source: str | None = key(
        None, "Hugging Face model folder that becomes the seed; null: the seed is trained"
    )
    domains: list[str] = key([], "domains of the seed's mix; empty: all training domains")
    steps: int | None = key(
        None,
        "training steps of the seed; null: half of all training; 0: experts branch from "
        "random parameters",
    )
    lr: float | None = key(None, "peak learning rate of the seed; null: trainer.lr")
    grow_batch: int = key(1, "factor on trainer.batch_size after seed.grow_after steps")
    grow_after: int = key(0, "steps before the batch grows")
    sampling: float | None = key(
        None,
        "power α of the shares p ∝ n^α that domains of n tokens have of the seed's mix; null: "
        "equal shares",
    )


@dataclass
class MergeConfig:
    """When an expert may enter the forest."""

    force: bool = key(
        False, "merge an expert that is worse than its parents on its own valid split too"
    )


def check_model(model: ModelConfig) -> None:
    """Raise `UserError` naming the first key of `model` whose value makes no sense."""
    check_path(model.file, "model.file")


def check_trainer(trainer: TrainerConfig) -> None:
    """Raise `UserError` naming the first key of `trainer` whose value makes no sense."""
    _check_trainer_numbers(trainer)
    _check_trainer_choices(trainer)


def _check_trainer_numbers(trainer: TrainerConfig) -> None:
    one = ("batch_size", "checkpoint_every", "log_every", "valid_tokens")
    check_least(trainer, "trainer", 1, *one)
    zero = (
        "steps",
        "micro_batch_size",
        "weight_decay",
        "clip",
        "threads",
        "valid_every",
        "delta_every",
        "average_last",
        "average_every",
    )
    check_least(trainer, "trainer", 0, *zero)
    check_fraction(trainer, "trainer", "warmup")
    _check_trajectory(trainer)
    _check_lora(trainer)
    final = trainer.final_lr
    require(0 <= final <= 1, "trainer.final_lr", final, "wanted [0, 1)")
    for i, beta in enumerate(trainer.betas):
        require(0 <= beta < 1, f"trainer.betas[{i}]", beta, "wanted [0, 1)")
    require(len(trainer.betas) == 2, "trainer.betas", trainer.betas, "wanted two numbers")
    for word in ("delta_density", "delta_prune", "decay_share"):
        part = getattr(trainer, word)
        require(0 < part <= 1, f"trainer.{word}", part, "wanted (0, 1]")
    check_rate(trainer.lr, "trainer.lr")
    # Beyond this torch cannot seed a step with trainer.seed * 1_000_003 + step.
    check_seed(trainer.seed, "trainer.seed")
    power, threads = trainer.decay_power, trainer.threads
    require(0 < power < 1000, "trainer.decay_power", power, "wanted a positive number")
    require(threads <= 1024, "trainer.threads", threads, "wanted at most 1,024, or 0")
    require(trainer.seq_len >= 2, "trainer.seq_len", trainer.seq_len, "wanted 2 or more")


def _check_trajectory(trainer: TrainerConfig) -> None:
    """Refuse an average of one point, two ways of averaging, and a distance without points."""
    last, beta = trainer.average_last, trainer.average_decay
    require(last != 1, "trainer.average_last", last, "wanted 2 or more, or 0 for the end alone")
    require(0 <= beta < 1, "trainer.average_decay", beta, "wanted [0, 1)")
    require(
        not (last and beta), "trainer.average_decay", beta, "leave out trainer.average_last, or it"
    )
    every = trainer.average_every
    require(
        bool(last) or not every, "trainer.average_every", every, "give trainer.average_last with it"
    )


def _check_lora(trainer: TrainerConfig) -> None:
    """Refuse a change of no rank or no size, and names of layers that are none."""
    check_least(trainer, "trainer", 1, "lora_rank")
    alpha = trainer.lora_alpha
    require(0 < alpha < 1e6, "trainer.lora_alpha", alpha, "wanted a positive number")
    for name in trainer.lora_targets:
        is_path = re.fullmatch(r"\w+(\.\w+)*", name) is not None
        require(
            is_path, "trainer.lora_targets", name, "wanted the end of a layer's name, as q_proj"
        )


def _check_trainer_choices(trainer: TrainerConfig) -> None:
    for word, choices in {
        "backend": BACKENDS,
        "decay": DECAYS,
        "delta_mask": DELTA_MASKS,
        "adapter": ADAPTERS,
        "carry": CARRY,
        "compile": COMPILE,
        "parallel": PARALLEL,
        "precision": PRECISIONS,
        "optimizer": OPTIMIZERS,
    }.items():
        check_choice(getattr(trainer, word), f"trainer.{word}", choices)
    bits = trainer.embedding_bits
    require(bits in EMBEDDING_BITS, "trainer.embedding_bits", bits, "wanted 8 or 32")
    for mirror in trainer.mirrors:
        check_choice(mirror, "trainer.mirrors", MIRRORS)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", trainer.device):
        raise UserError(
            f"trainer.device={trainer.device!r}: choose one of auto, cpu, cuda, cuda:<index>, mps"
        )


def check_rate(rate: float | str | None, key: str) -> None:
    """Raise `UserError` unless `rate` is a learning rate, null, or the word find."""
    if isinstance(rate, str):
        require(rate == "find", key, rate, "wanted a positive number, or find")
    else:
        require(rate is None or 0 < rate < 1000, key, rate, "wanted a positive number")


def check_fairseq(fairseq: FairseqConfig) -> None:
    """Raise `UserError` naming the first key of `fairseq` whose value makes no sense."""
    check_path(fairseq.python, "fairseq.python")


def check_seed_phase(seed: SeedConfig) -> None:
    """Raise `UserError` naming the first key of the section `seed` whose value makes no sense."""
    check_path(seed.source, "seed.from")
    check_name(seed.name, "seed.name")
    check_names(seed.domains, "seed.domains")
    check_least(seed, "seed", 1, "grow_batch")
    check_least(seed, "seed", 0, "grow_after", *(() if seed.steps is None else ("steps",)))
    check_rate(seed.lr, "seed.lr")
    check_power(seed.sampling, "seed.sampling")
    untrained = "seed.from" if seed.source else "seed.steps=0" if seed.steps == 0 else ""
    why = f"has no effect with {untrained}: no seed is trained"
    require(seed.sampling is None or not untrained, "seed.sampling", seed.sampling, why)
