"""The loss of a causal LM without its logits: the output layer and the cross-entropy as one (Liger,
arXiv 2410.10989).

Plain cross-entropy makes the logits in float32, their log-softmax and two gradients: four arrays of
tokens times vocabulary, which takes longer than the layers of a small model. Here a chunk of logits
becomes its own gradient in place.

N tokens, d the width, V the vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from btm.models import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = (
    2**26
)  # of logits that stand in memory at once; with fewer, gradients are added more often
ROWS = 2**19  # elements that are exponentiated at a time, in float32: what a core's cache holds
_FITS: "WeakKeyDictionary[torch.nn.Module, bool]" = WeakKeyDictionary()


class LinearCrossEntropy(torch.autograd.Function):
    """Mean of −log softmax(h W^T + b)[target], and its gradients, made in the same pass over the
    logits.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any, dtype: Any, shares: Any = None
    ) -> Any:
        """Return the mean loss in nats, float32. hidden (N, d), weight (V, d), bias (V) or None,
        targets (N).

        With `shares` (N), the sum that these weigh. Products are of `dtype`, sums and exponentials
        of float32.
        """
        n, h, w = len(targets), hidden.to(dtype), weight.to(dtype)
        top = shares.max() if shares is not None and n else 1.0
        chunk = max(1, CHUNK_BYTES // (len(w) * h.element_size()))
        loss = torch.empty(n, dtype=torch.float32, device=h.device)
        to_hidden = torch.empty_like(h)
        to_weight: Any = None
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, max(1, n), chunk):  # of no target, the gradient is 0
            rows = slice(start, start + chunk)
            logits = (
                h[rows] @ w.t() if bias is None else torch.addmm(bias.to(dtype), h[rows], w.t())
            )
            loss[rows] = softmax_less_target(logits, targets[rows])
            if shares is not None:  # relative to the largest: what is 1 stays so in 16 bits
                logits *= (shares[rows, None] / top).to(dtype)
            torch.mm(logits, w, out=to_hidden[rows])
            if ctx.needs_input_grad[1]:  # an output layer may be frozen, as beside an adapter
                part = logits.t() @ h[rows]
                to_weight = part.float() if to_weight is None else to_weight.add_(part)
            if to_bias is not None:
                to_bias += logits.sum(0, dtype=torch.float32)
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        ctx.divisor = n if shares is None else 1 / top
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return loss.mean() if shares is None else (loss * shares).sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        """Scale what the forward pass has found, in place where it can be."""
        factor = upstream[0] / ctx.divisor
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = (None if t is None else t.float().mul_(factor).to(d) for t, d in found)
        return *scaled, None, None, None


def softmax_less_target(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Turn logits (N, V) in place into softmax(logits) − onehot(targets), and return −log softmax
    at the targets (N).

    Both from float32, a few rows at a time: log Σ exp is the largest logit less the logarithm of
    its probability, which is at least 1/V.
    """
    loss = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    step = max(1, ROWS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), step):
        part = logits[start : start + step]
        target = targets[start : start + step, None]
        wide = part.float()
        share = torch.softmax(wide, -1)
        log_sum = wide.amax(-1, keepdim=True) - share.amax(-1, keepdim=True).log()
        loss[start : start + step] = (log_sum - wide.gather(1, target)).squeeze(1)
        share.scatter_add_(1, target, share.new_full((1, 1), -1.0).expand_as(target))
        part.copy_(share)
    return loss


def mean_nll(
    model: "PreTrainedModel",
    inputs: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean of −log p(target | inputs so far) in nats; inputs and targets (rows, tokens).

    With `weights`, (rows, tokens), it is the sum that these weigh, and logits are made only where
    they are not 0. Under autocast products are of its type, as the plain path's are, which a model
    that does not `fit` takes.
    """
    if not fits(model):
        return causal_lm.mean_nll(model, inputs, targets, weights, positions)
    placed = causal_lm.placed(positions)
    hidden = model.base_model(input_ids=inputs, use_cache=False, **placed)[0]
    head = model.get_output_embeddings()
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    bias = getattr(head, "bias", None)
    flat, wanted = hidden.flatten(0, 1), targets.flatten()
    if weights is None:
        return LinearCrossEntropy.apply(flat, head.weight, bias, wanted, dtype)
    at = weights.flatten().nonzero().squeeze(1)
    shares = weights.flatten()[at]
    return LinearCrossEntropy.apply(flat[at], head.weight, bias, wanted[at], dtype, shares)


def chosen(fast: bool) -> Callable[..., torch.Tensor]:
    """Choose the function of a model's mean loss: without its logits, or as transformers does."""
    return mean_nll if fast else causal_lm.mean_nll


def fits(model: "PreTrainedModel") -> bool:
    """Tell whether a model's logits are its output layer on the hidden states of its base, and
    nothing more.

    Some scale or cap them (Cohere, Gemma 2), so it is tried once, on a few tokens.
    """
    if model not in _FITS:
        _FITS[model] = _try(model)
    return _FITS[model]


def _try(model: "PreTrainedModel") -> bool:
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or model.base_model is model:
        return False
    was_training, kind = model.training, model.device.type
    tokens = torch.arange(8, device=model.device)[None] % causal_lm.vocabulary(model)
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            plain = causal_lm.logits_of(model(input_ids=tokens, use_cache=False))
            found = head(model.base_model(input_ids=tokens, use_cache=False)[0])
    except (RuntimeError, TypeError, ValueError):  # a base that does not run alone
        return False
    finally:
        model.train(was_training)
    return bool(torch.equal(plain, found))
