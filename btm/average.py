"""Weighted parameter averages of model folders, streamed: memory does not grow with models or their size.

θ = Σ_j w_j θ_j with Σ_j w_j = 1 (BTM, section 2.3). Sums are float64 whatever the storage, so a result
is the closed form rounded once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from btm import weights as wt
from btm.errors import UserError


def normalise(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the positive weights scaled to sum to 1; zero weights fall away."""
    total = float(sum(weights.values()))
    if not (np.isfinite(total) and total > 0 and min(weights.values()) >= 0):
        raise UserError(
            f"weights {dict(weights)} cannot be normalised: none may be negative, some must be positive"
        )
    return {name: weight / total for name, weight in weights.items() if weight > 0}


def average(sources: Mapping[Path, float], target: Path, alive: Callable[[], None] = lambda: None) -> None:
    """Write the average of the model folders `sources` (folder: weight) as weight files into `target`.

    The layout (files, tensor order, dtypes) is that of the first source. Tensors of integers must agree.
    Raises `UserError` if the models have different tensors or shapes. The caller publishes `target`, and is
    told at every tensor that this is `alive`.
    """
    shares = {
        Path(path): weight for path, weight in normalise({str(p): w for p, w in sources.items()}).items()
    }
    models = {path: wt.tensors(path) for path in shares}
    first = next(iter(models))
    for path in models:
        require_same_tensors(first, path)
    for file in wt.files(first):
        layout, head = wt.header(file)
        with (target / file.name).open("xb") as out:
            out.write(head)
            for tensor in layout:
                parts = [(models[path][tensor.name], share) for path, share in shares.items()]
                _write_mean(parts, out)
                alive()
    for index in first.glob("model*.safetensors.index.json"):
        (target / index.name).write_bytes(index.read_bytes())


def require_same_tensors(one: Path, other: Path) -> None:
    """Raise `UserError` unless two model folders hold tensors of the same names and shapes."""
    ours, theirs = wt.tensors(one), wt.tensors(other)
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"{one} and {other} differ: only one of them has the tensor {name!r}")
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape or tensor.is_float != theirs[name].is_float:
            shapes = f"{list(tensor.shape)} against {list(theirs[name].shape)}"
            raise UserError(f"{one} and {other} differ: tensor {name!r} is {shapes}")


def _write_mean(parts: list[tuple[wt.Tensor, float]], out: BinaryIO) -> None:
    """Append the weighted mean of one tensor, in the storage dtype of the first part."""
    lead = parts[0][0]
    if len(parts) == 1 or not lead.is_float:
        if any(not np.array_equal(lead.raw(), tensor.raw()) for tensor, _ in parts[1:]):
            raise UserError(f"tensor {lead.name!r} holds integers that differ: they cannot be averaged")
        for chunk in wt.chunks(lead):
            out.write(chunk.tobytes())
        return
    for pieces in zip(*(wt.chunks(tensor) for tensor, _ in parts), strict=True):
        base = wt.to_float64(pieces[0], lead.dtype)
        # Summing the differences from the first makes the average of copies equal the copy, bit for bit.
        change = np.zeros_like(base)
        for piece, (tensor, share) in zip(pieces[1:], parts[1:], strict=True):
            change += share * (wt.to_float64(piece, tensor.dtype) - base)
        out.write(wt.from_float64(base + change, lead.dtype).tobytes())
