"""Settings of the models that a verb loads to predict with; part of `btm.config.schema`."""

from dataclasses import dataclass

from btm.config.checks import check_choice
from btm.config.keys import key

QUANTIZATIONS = ("none", "int8")
DTYPES = ("fp32", "bf16", "fp16")
PLAIN = "none"


@dataclass
class LoadConfig:
    """How models are held in memory to predict with; what is on disk stays as it is."""

    quantization: str = key(
        PLAIN,
        "of the matrices in the layers of a model; int8: LLM.int8(), whose outlier columns are "
        "multiplied in load.dtype (extra [int8])",
        QUANTIZATIONS,
    )
    dtype: str = key("fp32", "number type of all that is not quantised", DTYPES)

    @property
    def word(self) -> str:
        """Name what predicts in file names; empty for float32, which scores are of by default."""
        parts = [] if self.quantization == PLAIN else [self.quantization]
        return "-".join([*parts, *([] if self.dtype == "fp32" else [self.dtype])])

    def __str__(self) -> str:
        """Say it as the keys that are not at their default."""
        said = [f"load.quantization={self.quantization}"] if self.quantization != PLAIN else []
        return " ".join([*said, *([] if self.dtype == "fp32" else [f"load.dtype={self.dtype}"])])


def check_load(load: LoadConfig) -> None:
    """Raise `UserError` naming the first key of `load` whose value makes no sense."""
    check_choice(load.quantization, "load.quantization", QUANTIZATIONS)
    check_choice(load.dtype, "load.dtype", DTYPES)
