"""Whether a model reads from left to right: no token may move the logits before it.

A config.json says so in a way of each architecture's own (`is_decoder` of BERT's kind, `causal` of
XLM, `use_bidirectional_attention` of Gemma 3), and some have no word for it. So it is tried.

Shapes: T tokens of a probe, R = T - 1 rows, each with one token changed, V tokens of the
vocabulary.
"""

import copy
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.models import causal_lm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = 12  # of the probe
# Of the largest movement: the rounding of a mixture of experts, whose groups change with a token,
# is below, and what attention lets through from later tokens far above, in float32.
_ROUNDING = 1e-5


def require_causal(model: "PreTrainedModel", what: str) -> None:
    """Raise `UserError`, naming the model as `what`, if a token moves the logits before it.

    Such a model sees what it is to predict: its perplexity is far too low, and it cannot write. The
    probe changes each token but the first in turn, so it also finds a prefix that is read both
    ways, and attention that looks a few tokens ahead. The model is left as it was.
    """
    was_training = model.training
    model.eval()
    try:
        early, late = _movement(model)
        if early > 0 and model.dtype.itemsize < 4:  # of so few digits rounding may be larger
            early, late = _movement(copy.deepcopy(model).float())
    except Exception as error:  # each architecture fails in its own way on values it never met
        raise UserError(f"{what}: does not run: {causal_lm.why(error)}") from None
    finally:
        model.train(was_training)
    if early > _ROUNDING * late:
        raise UserError(
            f"{what}: no causal LM: another token moves the logits before it (by {early:.2g}, "
            f"those after it by {late:.2g}), so it sees what it is to predict; wanted a model that "
            "reads from left to right alone (a config.json of BERT's kind says is_decoder: true)"
        )


def _movement(model: "PreTrainedModel") -> tuple[float, float]:
    """Measure how far one changed token moves the logits before it, and those from it on."""
    import torch

    rows = torch.arange(1, _length(model))
    ids_T = _ids(model, len(rows) + 1)
    whole_RT = ids_T.repeat(len(rows), 1)
    changed_RT = whole_RT.clone()
    changed_RT[rows - 1, rows] = ids_T[rows - 1]  # the token before: another one, and a usual one
    with torch.inference_mode():
        # Two passes of equal shape: a causal model then rounds equal tokens alike.
        logits = [_logits(model, ids_RT) for ids_RT in (whole_RT, changed_RT)]
    moved_RT = (logits[0] - logits[1]).abs().amax(-1)
    earlier_RT = torch.arange(len(ids_T)) < rows[:, None]
    return float(moved_RT[earlier_RT].max()), float(moved_RT[~earlier_RT].max())


def _logits(model: "PreTrainedModel", ids_RT: "torch.Tensor") -> "torch.Tensor":
    output = model(input_ids=ids_RT.to(model.device), use_cache=False)
    return causal_lm.logits_of(output).double().cpu()


def _length(model: "PreTrainedModel") -> int:
    limit = causal_lm.context_limit(model.config.to_dict())
    return max(2, min(_TOKENS, limit or _TOKENS))


def _ids(model: "PreTrainedModel", length: int) -> "torch.Tensor":
    """Choose tokens, each other than the one before, spread over the vocabulary, (T,)."""
    import torch

    size = causal_lm.vocabulary(model)
    first = min(3, size - 1)  # before these are special tokens, some of them read in their own way
    return first + (torch.arange(length) * 7919 + 17) % max(1, size - first)
