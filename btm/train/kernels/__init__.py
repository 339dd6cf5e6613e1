"""What a training step spends its time in, made faster: the loss, attention on CPUs, layers,
memory, barriers.

Each gives what the plain path of transformers gives, up to rounding, and stands aside where it does
not apply.

What is faster is put in where transformers has a place for it: an attention function is
registered, a layer's `forward` is replaced by its compiled self, and the loss takes the base
model's hidden states and the output layer, once both were seen to give the model's own logits. A
checkpoint says what it was computed with; a resume under another is not called exact.
`trainer.compile=auto` decides by the clock, since the gain (0 to 11 % on CPUs) depends on model
and machine.

`waiting`: threads spin until others want the cores. libgomp reads its policy once, so a watcher
reads how long threads wait for a core and gives libgomp a second, sleeping team while that is
much. A user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT is left alone.
"""

from typing import TYPE_CHECKING

from btm.train.kernels import attention, compiled, loss, memory, waiting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["attention", "compiled", "loss", "memory", "prepare", "waiting"]


def prepare(model: "PreTrainedModel") -> None:
    """Install the CPU kernels on `model` where they apply; the fused loss is chosen where the loss
    is computed.
    """
    if model.device.type == "cpu":
        attention.use(model)
        memory.keep_freed()
