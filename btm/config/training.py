"""Settings of training: architecture, trainer, seed phase, and what a merge asks for."""

from dataclasses import dataclass, field
from typing import Any


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
