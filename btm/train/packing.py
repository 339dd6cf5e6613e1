"""Whether a model keeps the examples of a row apart, found by trying it.

transformers builds block-diagonal attention for classes that pass positions on to their masks
(its `masking_utils`): a position that does not follow on the one before begins another text. Others
take positions and attend to all, or take none.
"""

from typing import TYPE_CHECKING

from btm.models import causal_lm
from btm.train.trainee import Trainee

if TYPE_CHECKING:
    from torch import Tensor

_LENGTHS = (5, 9, 6)  # tokens of the texts of the trial
_ROUNDING = 0.02  # of what the texts before it would move a score by


def settle(trainee: Trainee) -> list[str]:
    """Give every example a row of its own if the model does not keep several apart.

    Returns a note for the card.
    """
    if not trainee.batches.has_examples or separates(trainee):
        return []
    trainee.batches.unpack()
    kind = trainee.model.config.model_type
    return [f"one example a row: {kind} does not keep several in a row apart"]


def separates(trainee: Trainee) -> bool:
    """Tell whether texts in one row have the scores that each has alone."""
    import torch

    model = trainee.model
    size, device = causal_lm.vocabulary(model), model.device
    ids = (torch.arange(sum(_LENGTHS) + 1, device=device) * 7919 + 17) % size
    positions = torch.cat([torch.arange(n, device=device) for n in _LENGTHS])[None]

    def logp(begin: int, end: int, placed: "Tensor | None" = None) -> "Tensor":
        found = trainee.logp(ids[None, begin:end], ids[None, begin + 1 : end + 1], placed)
        return found[0].float()

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), causal_lm.quiet():
            begins = [sum(_LENGTHS[:i]) for i in range(len(_LENGTHS))]
            alone = torch.cat([logp(a, a + n) for a, n in zip(begins, _LENGTHS, strict=True)])
            moved = (logp(0, sum(_LENGTHS)) - alone).abs().max()
            left = (logp(0, sum(_LENGTHS), positions) - alone).abs().max()
            return bool(left <= _ROUNDING * moved)
    except (TypeError, ValueError, RuntimeError):  # no position_ids
        return False
    finally:
        model.train(was_training)
