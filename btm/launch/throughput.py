"""The best number of threads for a training, measured: neither extreme wins always."""

import itertools
import os
import time
from pathlib import Path

from btm.config.schema import Config
from btm.forest.paths import Paths
from btm.launch.records import read_shown
from btm.system import durable
from btm.train import optimizers

_SECONDS = 1.5  # of training, for each choice


def best_threads(config: Config, forest: Path, cores: int) -> int:
    """Measure the threads per job with which all jobs together train most tokens per second.

    Measured once for a model, a batch and a number of cores, by as many forked processes at once as
    would run; the figures are kept in ``jobs/throughput.json``.
    """
    if cores == 1:
        return 1
    file = Paths(forest).jobs.throughput
    t = config.trainer
    facts = Paths(forest).facts.read_text()
    batch = f"batch {t.batch_size}x{t.seq_len}, micro {t.micro_batch_size}"
    key = f"{facts} {cores} cores, {batch}, {t.precision}, kernels {t.kernels}"
    known = read_shown(file) or {}
    if known.get("key") != key:
        choices = [threads for threads in range(1, cores + 1) if cores % threads == 0]
        rates = {str(n): _rate(config, forest, n, cores // n) for n in choices}
        known = {"key": key, "tokens_per_second": rates, "cores": cores}
        durable.write_json(file, known)
    rates = known["tokens_per_second"]
    return int(max(rates, key=lambda threads: rates[threads]))


def _rate(config: Config, forest: Path, threads: int, jobs: int) -> float:
    """Measure the tokens per second of `jobs` processes that train at once with `threads` each."""
    reading, writing = os.pipe()
    children = []
    for _ in range(jobs):
        pid = os.fork()
        if not pid:
            try:
                os.write(writing, f"{_train_briefly(config, forest, threads)}\n".encode())
            finally:
                os._exit(0)
        children.append(pid)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        rates = [float(line) for line in pipe]
    for pid in children:
        os.waitpid(pid, 0)
    return sum(rates)


def _train_briefly(config: Config, forest: Path, threads: int) -> float:
    import numpy as np
    import torch

    from btm.models import causal_lm
    from btm.train import kernels, trainee

    torch.set_num_threads(threads)
    trainer = config.trainer
    model = causal_lm.load_trainable(Paths(forest).elm(config.seed.name).path, trainer.device)
    optimizer = optimizers.make_optimizer(model, trainer)
    if trainer.kernels:
        kernels.prepare(model)
    precision = causal_lm.pick_precision(trainer.precision, str(model.device))
    shape = (trainer.batch_size, trainer.seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, causal_lm.vocabulary(model), shape)
    begun = time.monotonic()  # reset after the first step, which warms up
    with kernels.waiting.considerate():
        for steps in itertools.count():
            trainee.backward(model, tokens, trainer, precision)
            divisor = optimizers.shrink(optimizers.gradient_norm(model), trainer.clip)
            trainee.apply(optimizer, 0.0, divisor)
            begun = begun if steps else time.monotonic()
            if time.monotonic() - begun >= _SECONDS:
                break
    return steps * trainer.batch_size * trainer.seq_len / (time.monotonic() - begun)
