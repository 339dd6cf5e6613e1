"""What a training step spends its time in, made faster: the loss, attention on CPUs, layers,
memory, barriers.

Each gives what the plain path of transformers gives, up to rounding, and stands aside where it does
not apply.
"""

from typing import TYPE_CHECKING

from btm.train.kernels import attention, compiled, loss, memory, waiting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["attention", "compiled", "loss", "memory", "prepare", "waiting"]


def prepare(model: "PreTrainedModel") -> None:
    """Let a model that is to be trained have what suits it of these; the loss is asked for where it
    is taken.
    """
    if model.device.type == "cpu":
        attention.use(model)
        memory.keep_freed()
