"""The learning rate by a short test (`trainer.lr=find`): a few rates, a few steps each, the lowest
loss wins.

A range test (arXiv 1506.01186), but with a whole short schedule for each rate instead of one rate
that rises: what is compared is what a training does, warm-up and decay included, and a rate that
diverges late is seen to.
"""

import math
from dataclasses import replace

from btm.config.schema import Config
from btm.config.training import TrainerConfig
from btm.data.batches import Batches
from btm.data.shards import Shard
from btm.errors import TrainingStoppedError
from btm.forest import Branch
from btm.models import causal_lm, weights
from btm.report import Reporter, quiet
from btm.system import durable
from btm.system.json_files import read_object
from btm.train import losses, optimizers, trainee
from btm.train.schedule import Schedule, default_lr
from btm.train.training import Pulse

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the default for the model's size
_SHARE = 0.05  # of the training's steps, for each rate
_FEWEST, _MOST = 50, 500  # steps for each rate
_COUNTED = 0.2  # of these steps: the last ones, whose mean loss is compared


def find_rate(
    config: Config,
    branch: Branch,
    shards: list[Shard],
    steps: int,
    pulse: Pulse,
    reporter: Reporter = quiet,
) -> float:
    """Return the best of a few peak learning rates for a branch on the first batches of its
    `shards`.

    Each begins with the branch's own parameters and gets a twentieth of `steps`, 50 to 500. What
    was tried is kept in ``rates.json`` of the branch, so a training that was killed goes on with
    the same rate. Raises `TrainingStoppedError` when `pulse` says so.
    """
    file = branch.files.rates
    if not file.exists():
        n = min(_MOST, max(_FEWEST, round(_SHARE * steps)))
        middle = default_lr(weights.parameters(branch.path))
        tried = {}
        for factor in FACTORS:
            lr = float(f"{middle * factor:.1e}")
            tried[lr] = _loss(
                branch, _batches(config, shards, branch), replace(config.trainer, lr=lr), n, pulse
            )
            reporter.line(f"learning rate {lr:g}: loss {tried[lr]:.4f} after {n} steps")
        best = min(tried, key=lambda lr: tried[lr])
        kept = [
            {"lr": lr, "loss": loss if math.isfinite(loss) else None} for lr, loss in tried.items()
        ]
        durable.write_json(file, {"lr": best, "steps": n, "tried": kept})
    return float(read_object(file, lr=float)["lr"])


def _batches(config: Config, shards: list[Shard], branch: Branch) -> Batches:
    trainer, sampling = config.trainer, None if branch.parents else config.seed.sampling
    pieces = [piece for shard in shards for piece in shard.pieces(trainer.seq_len + 1)]
    return Batches(pieces, trainer.seq_len, trainer.batch_size, trainer.seed, sampling=sampling)


def _loss(
    branch: Branch,
    batches: Batches,
    trainer: TrainerConfig,
    steps: int,
    pulse: Pulse,
) -> float:
    """Return the mean loss, in nats per token, of the last fifth of `steps` steps at one rate; inf
    if it diverges.
    """
    model = causal_lm.load_trainable(branch.path, trainer.device)
    optimizer = optimizers.make_optimizer(model, trainer)
    precision = causal_lm.pick_precision(trainer.precision, str(model.device))
    schedule = Schedule.of(trainer, horizon=steps)
    taken: list[losses.Step] = []
    unread = losses.Losses(losses.most_unread(model.device))
    for step in range(steps):
        lr = schedule.lr(step)
        batch, marks = batches.batch(step), batches.marks(step)
        loss = trainee.backward(model, batch, trainer, precision, marks=marks)
        norm = optimizers.gradient_norm(model)
        unread.add(step + 1, lr, loss, norm)
        if not _took(unread, taken):
            return math.inf
        trainee.apply(optimizer, lr, optimizers.shrink(norm, trainer.clip))
        if pulse(0):
            raise TrainingStoppedError("stopped while learning rates were tried")
    unread.read()
    if not _took(unread, taken):
        return math.inf
    counted = [step.loss for step in taken[-max(1, round(_COUNTED * steps)) :]]
    return sum(counted) / len(counted)


def _took(unread: losses.Losses, taken: list[losses.Step]) -> bool:
    """Add to `taken` the steps that were read; tell whether the training may go on from them."""
    found = unread.taken()
    taken += found
    return all(step.is_finite for step in found)
