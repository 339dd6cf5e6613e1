"""File names of a forest."""

from pathlib import Path
from typing import TYPE_CHECKING

from btm.data.shards import Shard

if TYPE_CHECKING:
    pass


_KEPT = 32  # digits of a sha256 in the name of a folder


def folder(root: Path, sha256: str, shard: Shard, window: int, sequences: int) -> Path:
    """Return where a forest at `root` keeps the Fisher information of the weights `sha256` on a
    shard.
    """
    return root / "fisher" / f"{sha256[:_KEPT]}-{shard.sha256[:16]}-w{window}-n{sequences}"


def of_weights(root: Path, sha256: str) -> list[Path]:
    """Return all that a forest keeps of the Fisher information of some weights."""
    return sorted((root / "fisher").glob(f"{sha256[:_KEPT]}-*"))


def weights_of(path: Path) -> str:
    """Return the first digits of the sha256 of the weights that a folder of Fisher information
    belongs to.
    """
    return path.name.partition("-")[0]
