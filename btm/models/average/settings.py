"""How an average is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What each method uses of it stands in its docstring (``methods.py``)."""

    method: str = "linear"
    # the model that differences are taken from, and the end of slerp where t = 0
    base: Path | None = None
    scale: float = 1.0  # λ, on the sum of differences
    density: float = 0.5  # share of each difference that is kept
    gamma: float = 0.01  # share of each difference, its largest entries, that breadcrumbs drops
    t: float = 0.5  # where slerp stands between the base (0) and the other model (1)
    rescale: str = "density"  # of what dare keeps: density | l1 | none
    seed: int = 0  # of what dare drops
    layers: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # pattern: {folder's name: weight}
    importance: Mapping[Path, Path] = field(
        default_factory=dict
    )  # folder: that of its Fisher information
    accumulate: str = "float32"  # float32 | float64
    dtype: str | None = None  # of the result's floats, as safetensors names it; None: as stored
    shard_bytes: int | None = None  # of a file, at most; None: the files of the first model
    threads: int = 0  # 0: one a core
