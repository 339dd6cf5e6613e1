"""Settings of training: architecture, trainer, seed phase, and what a merge asks for."""

import re
from dataclasses import dataclass, field
from typing import Any

from btm.config.checks import (
    check_choice,
    check_fraction,
    check_least,
    check_name,
    check_names,
    check_path,
    check_seed,
    require,
)
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


@dataclass
class ModelConfig:
    """An architecture of `transformers`: the fields of its config.json."""

    name: str = "pico"
    file: str | None = None  # a config.json; overrides `config`
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainerConfig:
    """How one ELM is trained. A step is one optimizer update."""

    backend: str = "btm"  # or fairseq: fairseq-train, in a process of its own (docs/fairseq.md)
    steps: int = 1000
    batch_size: int = 16  # sequences per step
    micro_batch_size: int = 0  # sequences per forward pass (gradient accumulation); 0: all of them
    seq_len: int = 256  # tokens per sequence
    optimizer: str = "adamw"  # or adamw8bit: its moments are quantised to 8 bits (extra int8)
    embedding_bits: int = 8  # of the moments of embeddings under adamw8bit: 8 | 32
    offload: bool = False  # moments in the host's memory; the optimizer steps there
    # loss and attention of btm/kernels: the plain ones' results, up to rounding, sooner
    kernels: bool = True
    # the layers, by torch: always | never | auto: by the clock, if it pays back
    compile: str = "auto"
    write_behind: bool = True  # checkpoints are copied and written while the training goes on
    # activations are computed again in the backward pass, not kept
    gradient_checkpointing: bool = False
    # peak; null: by the model's size (btm/train/schedule.py) | find: by a short test
    lr: float | int | str | None = None
    warmup: float = 0.08  # fraction of the steps of the schedule
    decay: str = "cosine"  # constant | cosine | linear | polynomial | wsd: constant, then linear
    decay_power: float = 1.0  # of polynomial
    decay_share: float = 0.1  # of wsd: fraction of the steps of the schedule that are linear
    final_lr: float = 0.1  # fraction of lr at the end of the schedule
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.1
    clip: float = 1.0  # norm of the gradient; 0: no clipping
    # begin a schedule anew | continue the parent's, and its optimizer | auto: where possible
    carry: str = "fresh"
    precision: str = "auto"  # auto | fp32 | bf16 (autocast; weights stay float32)
    device: str = "auto"  # auto | cpu | cuda | cuda:1 …
    # each of cluster.*.gpus_per_expert processes holds a model | fsdp: a share of it
    parallel: str = "ddp"
    threads: int = 0  # CPU threads, of all processes together; 0: as torch finds them
    seed: int = 0  # of initialisation and data order
    valid_every: int = 0  # steps between validations; 0: at the end only
    valid_tokens: int = 16_384  # tokens of the valid split that a validation reads
    checkpoint_every: int = 200  # steps
    log_every: int = 10  # steps
    mirrors: list[str] = field(default_factory=list)  # tensorboard | wandb | mlflow
    delta_density: float = 1.0  # share of parameters that may differ from the parents'; 1: dense
    delta_every: int = 0  # steps between prunings of these; 0: a hundredth of the steps
    delta_prune: float = 0.5  # share pruned at first, falling as a cosine to a hundredth of that
    # momentum | normalised (docs/sparse.md) | random: it stays as drawn
    delta_mask: str = "momentum"


@dataclass
class FairseqConfig:
    """The fairseq that trains, where trainer.backend=fairseq."""

    python: str | None = None  # the interpreter that has it; null: the one that runs btm
    options: dict[str, Any] = field(default_factory=dict)  # more of fairseq-train's: {fp16: true}


@dataclass
class SeedConfig:
    """The seed phase: what every expert descends from."""

    name: str = "seed"
    source: str | None = None  # `seed.from=DIR`: a Hugging Face model folder instead of training
    domains: list[str] = field(default_factory=list)  # of the mix; empty: all training domains
    # null: half of the training; 0: no seed phase, experts branch from random parameters
    steps: int | None = None
    lr: float | None = None  # peak; null: as trainer.lr says
    # a step after seed.grow_after has so many times trainer.batch_size sequences
    grow_batch: int = 1
    grow_after: int = 0  # steps


@dataclass
class MergeConfig:
    """When an expert may enter the forest."""

    force: bool = False  # also when it is worse than its parents on its own valid split


def check_model(model: ModelConfig) -> None:
    """Raise `UserError` naming the first key of `model` whose value makes no sense."""
    check_path(model.file, "model.file")


def check_trainer(trainer: TrainerConfig) -> None:
    """Raise `UserError` naming the first key of `trainer` whose value makes no sense."""
    _check_trainer_numbers(trainer)
    _check_trainer_choices(trainer)


def _check_trainer_numbers(trainer: TrainerConfig) -> None:
    one = ("steps", "batch_size", "checkpoint_every", "log_every", "valid_tokens")
    check_least(trainer, "trainer", 1, *one)
    zero = ("micro_batch_size", "weight_decay", "clip", "threads", "valid_every", "delta_every")
    check_least(trainer, "trainer", 0, *zero)
    check_fraction(trainer, "trainer", "warmup")
    final = trainer.final_lr
    require(0 <= final <= 1, "trainer.final_lr", final, "wanted [0, 1)")
    for i, beta in enumerate(trainer.betas):
        require(0 <= beta < 1, f"trainer.betas[{i}]", beta, "wanted [0, 1)")
    require(len(trainer.betas) == 2, "trainer.betas", trainer.betas, "wanted two numbers")
    for key in ("delta_density", "delta_prune", "decay_share"):
        part = getattr(trainer, key)
        require(0 < part <= 1, f"trainer.{key}", part, "wanted (0, 1]")
    check_rate(trainer.lr, "trainer.lr")
    # Beyond this torch cannot seed a step with trainer.seed * 1_000_003 + step.
    check_seed(trainer.seed, "trainer.seed")
    power, threads = trainer.decay_power, trainer.threads
    require(0 < power < 1000, "trainer.decay_power", power, "wanted a positive number")
    require(threads <= 1024, "trainer.threads", threads, "wanted at most 1,024, or 0")
    require(trainer.seq_len >= 2, "trainer.seq_len", trainer.seq_len, "wanted 2 or more")


def _check_trainer_choices(trainer: TrainerConfig) -> None:
    for key, choices in {
        "backend": BACKENDS,
        "decay": DECAYS,
        "delta_mask": DELTA_MASKS,
        "carry": CARRY,
        "compile": COMPILE,
        "parallel": PARALLEL,
        "precision": PRECISIONS,
        "optimizer": OPTIMIZERS,
    }.items():
        check_choice(getattr(trainer, key), f"trainer.{key}", choices)
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
