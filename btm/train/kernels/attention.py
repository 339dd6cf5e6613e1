"""Causal attention for training on CPUs: block by block of queries, in batched products.

torch's own kernel for CPUs (flash attention) is slow in its backward pass. At the lengths ELMs are
trained with the probabilities fit into memory, so they are kept, and all is done by matrix
products, which run at the machine's peak; a block of queries meets only the keys up to its own end,
so nearly half of the square is never computed.

Scores and probabilities have the type of the queries, as in transformers' eager attention; softmax
is done in float32.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from btm.models.causal_lm import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "btm_block_causal"  # for transformers: config._attn_implementation
BLOCK = 128  # queries
_BEYOND = ("dropout", "sliding_window", "position_bias", "softcap", "s_aux", "head_mask")
LONGEST = 1024  # tokens; beyond, the probabilities take more memory than they save time


@torch.library.custom_op("btm::block_causal", mutates_args=())
def block_causal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax(scale q k^T, causal) v and the probabilities; q, k, v (heads of all rows, T,
    D).

    The probabilities lie block after block, each (heads, its queries, keys up to its end), in one
    row.
    """
    out, kept = torch.empty_like(q), _room(q)
    future = q.new_full((q.shape[1], q.shape[1]), float("-inf")).triu_(1)
    for a, b, p in _views(kept, q):
        hidden = future[a:b, :b].expand(len(q), -1, -1)
        scores = torch.baddbmm(hidden, q[:, a:b], k[:, :b].transpose(1, 2), alpha=scale)
        torch.softmax(scores, -1, out=p)
        out[:, a:b] = torch.bmm(p, v[:, :b])
    return out, kept


@block_causal.register_fake
def _(q: Any, k: Any, v: Any, scale: float) -> Any:
    return torch.empty_like(q), _room(q)


@torch.library.custom_op("btm::block_causal_backward", mutates_args=())
def block_causal_backward(
    to_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kept: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of q, k and v, given that of the output and the probabilities."""
    to_q = torch.empty_like(q)
    to_k, to_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
    for a, b, p in _views(kept, q):
        g = to_out[:, a:b]
        to_v[:, :b] += torch.bmm(p.transpose(1, 2), g)
        to_p = torch.bmm(g, v[:, :b].transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_p, p, -1, p.dtype)
        to_q[:, a:b] = torch.bmm(to_scores, k[:, :b])
        to_k[:, :b] += torch.bmm(to_scores.transpose(1, 2), q[:, a:b])
    return to_q.mul_(scale), to_k.mul_(scale).to(k.dtype), to_v.to(v.dtype)


@block_causal_backward.register_fake
def _(to_out: Any, q: Any, k: Any, v: Any, kept: Any, scale: float) -> Any:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, output[1])


def _backward(ctx: Any, to_out: Any, to_kept: Any) -> Any:
    return *block_causal_backward(to_out.contiguous(), *ctx.saved_tensors, ctx.scale), None


block_causal.register_autograd(_backward, setup_context=_keep)


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: Any = None,
    **rest: Any,
) -> Any:
    """Be an attention function of transformers: query (rows, heads, T, D) → (rows, T, heads, D),
    None.

    What `block_causal` is not for goes to torch's kernel: masks, dropout, windows, biases, other
    types than bfloat16.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    rows, heads, T, D = query.shape
    plain = attention_mask is None and not any(rest.get(key) for key in _BEYOND)
    plain = plain and rest.get("is_causal") is not False and getattr(module, "is_causal", True)
    fits = dtype == torch.bfloat16 and kind == "cpu" and 1 < T == key.shape[2] <= LONGEST
    if not (plain and fits and value.shape[3] == D):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
    key, value = (repeat_kv(t, heads // t.shape[1]) for t in (key, value))
    q, k, v = (t.to(dtype).reshape(rows * heads, T, D) for t in (query, key, value))
    out, _ = block_causal(q, k, v, D**-0.5 if scaling is None else scaling)
    return out.view(rows, heads, T, D).transpose(1, 2).contiguous(), None


def use(model: "PreTrainedModel") -> bool:
    """Let a model that would take torch's kernel on a CPU take `attend` instead; tell whether it
    does.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with quiet():  # an architecture that cannot change says so at length
        model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def _blocks(T: int) -> list[tuple[int, int]]:
    return [(a, min(a + BLOCK, T)) for a in range(0, T, BLOCK)]


def _room(q: torch.Tensor) -> torch.Tensor:
    return q.new_empty(q.shape[0] * sum((b - a) * b for a, b in _blocks(q.shape[1])))


def _views(kept: torch.Tensor, q: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield each block of queries, from a to b, and its probabilities (heads, b - a, b)."""
    done = 0
    for a, b in _blocks(q.shape[1]):
        shape = (q.shape[0], b - a, b)
        size = math.prod(shape)
        yield a, b, kept[done : done + size].view(shape)
        done += size
