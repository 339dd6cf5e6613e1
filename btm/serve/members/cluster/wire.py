"""Log-probabilities between machines, in 32, 16 or 8 bits.

Each is sent as its distance from the likeliest token's log p, which goes beside it in float32: the
tokens that matter have small distances, and there float16 and the codebook of 8 bits
(btm/models/blockwise.py) are finest.

Shapes: R distributions over V tokens, in nats.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.ensemble.posterior import Array
from btm.models import blockwise
from btm.serve.members.member import Found

if TYPE_CHECKING:
    import torch

_BLOCK = 256  # distances that share a scale
_FARTHEST = 64.0  # nats; one farther distance would spoil its whole block


@dataclass(frozen=True)
class Packed:
    """R distributions on their way."""

    best: NDArray[np.float32]  # (R,)
    distances: NDArray[np.generic]  # (R, V), float32, float16 or codes
    scales: NDArray[np.float32] | None = None  # of the blocks of codes

    @property
    def bytes(self) -> int:
        """The bytes of its numbers."""
        scales = 0 if self.scales is None else self.scales.nbytes
        return self.best.nbytes + self.distances.nbytes + scales


@dataclass(frozen=True)
class Reply:
    """A `Found` on its way."""

    texts: list[int]  # of `next`
    next: Packed | None
    scores: dict[int, Array] = field(default_factory=dict)
    whole: dict[int, Packed] = field(default_factory=dict)
    seconds: float = 0.0  # that it took to compute


def pack(logp_RV: "torch.Tensor", wire: str) -> Packed:
    """Pack distributions in the number type `wire`."""
    logp_RV = logp_RV.float()
    best_R = logp_RV.amax(1)
    distances_RV = (best_R[:, None] - logp_RV).cpu()
    best = best_R.cpu().numpy()
    if wire == "fp32":
        return Packed(best, distances_RV.numpy())
    if wire == "fp16":
        return Packed(best, distances_RV.half().numpy())
    flat = distances_RV.clamp(max=_FARTHEST).numpy().reshape(-1)
    codes, scales = blockwise.quantise(flat, _BLOCK, signed=False)
    return Packed(best, codes.reshape(distances_RV.shape), scales)


def unpack(packed: Packed) -> "torch.Tensor":
    """Return log p, (R, V) in float32."""
    import torch

    distances = packed.distances
    if packed.scales is not None:
        codes = distances.reshape(-1).astype(np.uint8, copy=False)
        flat = blockwise.dequantise(codes, packed.scales, _BLOCK, signed=False)
        distances = flat.reshape(distances.shape)
    # Ray's memory, where large arrays lie, is read only; torch wants to be able to write.
    return torch.tensor(packed.best)[:, None] - torch.tensor(distances).float()


def reply(found: Found, wire: str, seconds: float) -> Reply:
    """Pack all that a member computed."""
    import torch

    texts = list(found.next)
    together = pack(torch.stack([found.next[n] for n in texts]), wire) if texts else None
    whole = {number: pack(logp_TV, wire) for number, logp_TV in found.whole.items()}
    return Reply(texts, together, dict(found.scores), whole, seconds)


def found(reply: Reply) -> Found:
    """Unpack all that a member computed."""
    next_RV = () if reply.next is None else unpack(reply.next)
    return Found(
        dict(zip(reply.texts, next_RV, strict=True)),
        reply.scores,
        {number: unpack(packed) for number, packed in reply.whole.items()},
    )
