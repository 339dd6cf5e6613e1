"""What a training step spends its time in, made faster: the loss, attention on CPUs, and compiled layers.

Each gives what the plain path of transformers gives, up to rounding, and stands aside where it does not apply.
"""

from btm.kernels import attention, compiled, loss

__all__ = ["attention", "compiled", "loss"]
