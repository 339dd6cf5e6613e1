"""The speed of this machine: tokens per second of training, measured with the model itself."""

import time
from pathlib import Path

from btm.config.schema import Config

_SECONDS = 1.5  # of training


def tokens_per_second(config: Config, model: Path) -> float:
    """Train a copy of a model in memory on random tokens for a moment, and return its speed.

    The batch is trainer.batch_size sequences of trainer.seq_len tokens, on trainer.device.
    """
    import numpy as np
    import torch

    from btm.models import causal_lm
    from btm.train import kernels, optimizers, trainee

    trainer = config.trainer
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    trained = causal_lm.load_trainable(model, trainer.device)
    optimizer = optimizers.make_optimizer(trained, trainer)
    if trainer.kernels:
        kernels.prepare(trained)
    precision = causal_lm.pick_precision(trainer.precision, str(trained.device))
    shape = (trainer.batch_size, trainer.seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, causal_lm.vocabulary(trained), shape)

    def step() -> None:
        trainee.backward(trained, tokens, trainer, precision)
        divisor = optimizers.shrink(optimizers.gradient_norm(trained), trainer.clip)
        trainee.apply(optimizer, 0.0, divisor)

    step()  # the first one warms up
    begun, steps = time.monotonic(), 0
    while (spent := time.monotonic() - begun) < _SECONDS or not steps:
        step()
        steps += 1
    return steps * trainer.batch_size * trainer.seq_len / max(spent, 1e-9)
