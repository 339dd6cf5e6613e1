"""The settings of an average."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of an average; the docstrings in ``methods.py`` say which of them a method uses."""

    method: str = "linear"
    base: Path | None = None  # where differences are taken from; the end t = 0 of slerp
    scale: float = 1.0  # λ, on the sum of differences
    density: float = 0.5  # share of each difference that is kept
    gamma: float = 0.01  # share of each difference, its largest entries, that breadcrumbs drops
    t: float = 0.5  # where slerp stands between the base (0) and the other model (1)
    rescale: str = "density"  # how dare scales what it keeps: density | l1 | none
    seed: int = 0  # of dare's random masks
    # weights of single tensors: {pattern of names: {folder's name: weight}}
    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    # Fisher information: {model's folder: folder that holds it}
    importance: Mapping[Path, Path] = field(default_factory=dict)
    accumulate: str = "float32"  # float32 | float64
    dtype: str | None = None  # of the result's floats, as safetensors names it; None: as stored
    shard_bytes: int | None = None  # of a file, at most; None: the files of the first model
    threads: int = 0  # 0: one a core
