"""Settings of models from and for elsewhere."""

from dataclasses import dataclass

from btm.config.checks import check_choice, check_least, check_path, require
from btm.config.choices import DTYPES
from btm.config.keys import key

FORMATS = ("hf", "mergekit", "fairseq", "delta", "delta8", "lora", "gguf")
EXPORTED = (*DTYPES, "q8_0")
WAYS = ("full", "delta", "delta8")  # of a push
BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)  # of quantised tensors, in elements


@dataclass
class ImportConfig:
    """A model that was made elsewhere, and comes in."""

    source: str | None = key(
        None,
        "folder of the model that is imported; of grow: the text of the new domain; of pull: the "
        "URL of a forest",
    )
    legacy: bool = key(
        False, "also read pickled weights (pytorch_model.bin), in a process with limits"
    )


@dataclass
class ExportConfig:
    """A model that goes out."""

    dtype: str | None = key(
        None, "number type of the exported weights; null: as stored; q8_0: of a GGUF", EXPORTED
    )
    shard_gb: float = key(0.0, "largest size of a weight file, in GB; 0: the files as they are")
    block: int = key(
        2048, "elements that share a scale under format=delta8 and push.as=delta8", BLOCKS
    )
    force: bool = key(
        False, "export, or push to hf://, although a licence forbids it; the card says so"
    )


@dataclass
class PushConfig:
    """How models travel to a remote forest."""

    kind: str = key(
        "full",
        "how an ELM travels: whole, or as its difference from parents there: delta, exact, of a "
        "sparse expert or an adapter; delta8, of any ELM, in 8 bits an element",
        WAYS,
    )
    replace: bool = key(False, "replace an average of that name at the remote")


def check_import(imports: ImportConfig) -> None:
    """Raise `UserError` if what `from=` names is empty."""
    check_path(imports.source, "from")


def check_export(export: ExportConfig) -> None:
    """Raise `UserError` naming the first key of `export` whose value makes no sense."""
    check_least(export, "export", 0, "shard_gb")
    blocks = ", ".join(map(str, BLOCKS))
    require(export.block in BLOCKS, "export.block", export.block, f"wanted one of {blocks}")
    if export.dtype is not None:
        check_choice(export.dtype, "export.dtype", EXPORTED)


def check_push(push: PushConfig) -> None:
    """Raise `UserError` if models cannot travel as `push.as` says."""
    check_choice(push.kind, "push.as", WAYS)
