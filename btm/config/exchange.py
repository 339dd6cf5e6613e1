"""Settings of models from and for elsewhere."""

from dataclasses import dataclass


@dataclass
class ImportConfig:
    """A model that was made elsewhere, and comes in."""

    source: str | None = None  # `from=DIR`: its folder
    legacy: bool = False  # also read pickled weights (pytorch_model.bin), in a process with limits


@dataclass
class ExportConfig:
    """A model that goes out."""

    dtype: str | None = None  # fp32 | bf16 | fp16; null: as it is stored
    shard_gb: float = 0.0  # of each weight file, at most; 0: the files as they are
    block: int = 2048  # of delta8: elements that share a scale


@dataclass
class CardConfig:
    """What the card of a new ELM says that btm cannot know."""

    # an identifier of the Hugging Face Hub, apache-2.0; null: none is stated
    license: str | None = None
