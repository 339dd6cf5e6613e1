"""The life of a sparse mask: sparse momentum (arXiv 1907.04840), on changes instead of weights,
with an exact budget.

A mask says which entries of a tensor may differ from where they began. From time to time the
smallest changes are pruned and as many entries regrown: the tensors share them by the mean momentum
of the entries they have, and in each the entries of largest momentum come. The paper's code rounds
tensor by tensor, so its total drifts by some per cent; here it is the same integer after every
step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# What torch and bitsandbytes call m and v, and the latter their scales and codebooks.
_NAMES = (("exp_avg", "state1", "absmax1", "qmap1"), ("exp_avg_sq", "state2", "absmax2", "qmap2"))
_BLOCK = 256  # elements that share a scale in bitsandbytes

_FULL = 0.99  # a tensor with this share of its entries takes no more
_LAST = 0.01  # of the first prune rate, at the end: 0.5 becomes 0.005
_DENSE = 0.2  # a tensor with a smaller share of zeros than this prunes no more than that share


def rate(first: float, progress: float) -> float:
    """Return the share of entries that is pruned at `progress` in [0, 1] of a training: a cosine
    from `first`.
    """
    return first * (_LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * progress)))


def share(total: int, weights: Sequence[float], room: Sequence[int]) -> list[int]:
    """Return whole numbers that sum to `total`, in proportion to `weights`, none above its `room`.

    Fractions go to the largest remainders; what finds no room is spread evenly over those that have
    some. Raises `ValueError` if there is not room enough.
    """
    if total > sum(room):
        raise ValueError(f"{total} entries, and room for {sum(room)}")
    scale = sum(weights)
    if not (math.isfinite(scale) and scale > 0):
        weights, scale = [1.0] * len(room), float(len(room))
    exact = [total * weight / scale for weight in weights]
    given = [min(int(part), most) for part, most in zip(exact, room, strict=True)]
    by_remainder = sorted(range(len(room)), key=lambda i: int(exact[i]) - exact[i])
    while (left := total - sum(given)) > 0:
        takers = [i for i in by_remainder if given[i] < room[i]]
        each = max(1, left // len(takers))
        for i in takers[:left]:
            given[i] += min(each, room[i] - given[i])
    return given


def begin(sizes: Mapping[str, "Sequence[int]"], budget: int, seed: int) -> "dict[str, Tensor]":
    """Return random masks, bool, of tensors of these shapes: `budget` entries in all, equally dense
    in each.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    counts = [math.prod(shape) for shape in sizes.values()]
    kept = share(budget - len(counts), counts, [count - 1 for count in counts])
    masks = {}
    for (name, shape), count, more in zip(sizes.items(), counts, kept, strict=True):
        mask = torch.zeros(count, dtype=torch.bool)
        mask[torch.randperm(count, generator=generator)[: 1 + more]] = True
        masks[name] = mask.view(*shape)
    return masks


def gain(state: Mapping[str, Any], like: "Tensor") -> "Tensor":
    """Return m² / (√v + 1e-8), of the shape of `like`: what Adam's next step on each entry takes
    off the loss.

    To first order, and in units of the learning rate: the momentum m times the step m / √v.
    """
    return _of_adam(state, like, lambda m, noise: m.square() / noise)


def normalised(state: Mapping[str, Any], like: "Tensor") -> "Tensor":
    """Return |m| / (√v + 1e-8): what the paper's code takes for momentum under Adam."""
    return _of_adam(state, like, lambda m, noise: m.abs() / noise)


MEASURES = {
    "momentum": gain,
    "normalised": normalised,
}  # of the momentum of an entry, by trainer.delta_mask


def move(
    masks: "Mapping[str, Tensor]",
    changes: "Mapping[str, Tensor]",
    momenta: "Mapping[str, Tensor]",
    pruned_share: float,
) -> int:
    """Prune the smallest `changes` and regrow as many entries where `momenta` are largest; return
    how many.

    Changes `masks` in place; a tensor keeps one entry at least. All are by name and of equal
    shapes.
    """
    names = list(masks)
    counts = [int(masks[name].sum()) for name in names]
    means = [
        float(momenta[name][masks[name]].mean()) if n else 0.0
        for name, n in zip(names, counts, strict=True)
    ]
    pruned = [
        _pruned(n, masks[name].numel(), pruned_share) for name, n in zip(names, counts, strict=True)
    ]
    for name, n in zip(names, pruned, strict=True):
        _prune(masks[name], changes[name], n)
    left = [n - gone for n, gone in zip(counts, pruned, strict=True)]
    for name, n in zip(
        names, share(sum(pruned), means, _room(masks, left, sum(pruned))), strict=True
    ):
        _regrow(masks[name], momenta[name], n)
    return sum(pruned)


def largest(changes: "Mapping[str, Tensor]", budget: int) -> "dict[str, Tensor]":
    """Return the masks of the `budget` largest changes of all tensors together: what is cut after a
    dense training.
    """
    import torch

    sizes = [change.numel() for change in changes.values()]
    flat = torch.cat([change.abs().flatten() for change in changes.values()])
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[torch.topk(flat, budget).indices] = True
    parts = zip(changes.items(), kept.split(sizes), strict=True)
    return {name: part.view_as(change) for (name, change), part in parts}


def _of_adam(
    state: Mapping[str, Any], like: "Tensor", measure: "Callable[[Tensor, Tensor], Tensor]"
) -> "Tensor":
    import torch

    if not state:  # it has had no gradient yet
        return torch.zeros_like(like)
    m, v = (_moment(state, *names).view_as(like).to(like.device) for names in _NAMES)
    return measure(m, v.sqrt() + 1e-8)


def _moment(
    state: Mapping[str, Any], plain: str, other: str, scale: str, codebook: str
) -> "Tensor":
    """Return one of Adam's moments in float32, from torch's state or from bitsandbytes', which may
    be of 8 bits.
    """
    if plain in state:
        return state[plain]
    stored = state[other]
    if scale not in state:
        return stored
    values = state[codebook][stored.flatten().long()]
    return values * state[scale].repeat_interleave(_BLOCK)[: len(values)]


def _pruned(count: int, size: int, pruned_share: float) -> int:
    zeros = 1 - count / size
    allowed = min(pruned_share, zeros) if zeros < _DENSE else pruned_share
    return max(0, min(math.ceil(allowed * count), count - 1))


def _room(masks: "Mapping[str, Tensor]", left: Sequence[int], wanted: int) -> list[int]:
    """Return how many entries each tensor may take: up to 99 % of its size, or all where that is
    not enough.
    """
    sizes = [mask.numel() for mask in masks.values()]
    room = [max(0, int(_FULL * size) - n) for size, n in zip(sizes, left, strict=True)]
    return room if sum(room) >= wanted else [size - n for size, n in zip(sizes, left, strict=True)]


def _prune(mask: "Tensor", change: "Tensor", count: int) -> None:
    import torch

    active = mask.flatten().nonzero().squeeze(1)
    smallest = torch.topk(change.abs().flatten()[active], count, largest=False).indices
    mask.view(-1)[active[smallest]] = False


def _regrow(mask: "Tensor", momentum: "Tensor", count: int) -> None:
    import torch

    zeros = momentum.masked_fill(mask, -1.0).flatten()
    mask.view(-1)[torch.topk(zeros, count).indices] = True
