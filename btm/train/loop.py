"""The training loop of one ELM: next-token loss on its own data, talking to nobody.

Everything random is a function of (trainer.seed, step), and the batches are too, so the step and
the tensors are the whole state: a run that was killed and resumed gives the same bytes as one that
was not, on the same thread count, torch version and instruction set.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import TrainingStoppedError, UserError
from btm.forest.paths import ModelFolder
from btm.models import causal_lm, trial
from btm.system import durable, lease
from btm.system.json_files import Json
from btm.train import checkpoint, losses, optimizers, packing, trajectory
from btm.train.metrics import Metrics
from btm.train.resume import environment_of, resume, settings_of
from btm.train.trainee import Trainee, apply, compiled_layers, validate
from btm.train.training import Trained, Training

if TYPE_CHECKING:
    import torch

# A prime beyond the steps of any training here: what seed 0 draws at a step, seed 1 draws at none.
_APART = 1_000_003


class TrainingFailedError(UserError):
    """The loss or the gradient is no longer finite; the last good checkpoint stands."""


def train(training: Training) -> Trained:
    """Train a dense model in `training.folder`, in place, from its newest checkpoint if it has one.

    Raises `TrainingFailedError` where the loss stops being finite, `UserError` if the model does
    not run on sequences of that length or the checkpoint belongs to other settings, and
    `TrainingStoppedError`, after a checkpoint, when `training.pulse` says so.
    """
    model = causal_lm.load_trainable(training.folder, training.trainer.device)
    trial.run(model, training.batches.seq_len, str(training.folder))
    return loop(training, Trainee(model, training.batches))


def loop(training: Training, trainee: Trainee) -> Trained:
    """Train `trainee`, whose model came from `training.folder`; all else is as `train` says."""
    import torch

    from btm.train import kernels

    folder, trainer, steps = training.folder, training.trainer, training.steps
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    model, stored_dtype = trainee.model, causal_lm.stored_dtype(folder)
    if trainer.kernels:
        kernels.prepare(model)
    if trainer.gradient_checkpointing:
        causal_lm.checkpoint_gradients(model)
    laid_out = packing.settle(trainee)
    optimizer = optimizers.make_optimizer(trainee.trained, trainer)
    precision = causal_lm.pick_precision(trainer.precision, str(model.device))
    trainee.trajectory = average = trajectory.of(model, trainer, steps)
    state = _begin(training, trainee, optimizer, precision)
    layers = compiled_layers(trainee, trainer, precision, state, steps)
    file = ModelFolder(folder).metrics if trainee.leads else None
    metrics = Metrics(file, state["step"], steps, trainer, trainee.tokens, training.report)

    def require_finite(found: losses.Step) -> None:
        if found.is_finite:
            return
        # The checkpoint of the step before may still be on its way to the disk. It holds the
        # parameters that gave this loss, so nothing can go on from it: let it land, then drop it,
        # for one dropped before it lands would come back.
        writer.wait()
        trainee.drop(folder, found.done - 1)
        reason = f"loss {found.loss}, gradient norm {found.norm}"
        raise _failed(folder, found.done, reason, found.lr)

    unread = losses.Losses(losses.most_unread(model.device, training.unread), require_finite)
    with kernels.waiting.considerate(), checkpoint.Writer(behind=trainer.write_behind) as writer:
        for step in range(state["step"], steps):
            lr, done = training.schedule.lr(step), step + 1
            # What dropout draws is a function of (seed, step), like the batch: a resumed run needs
            # no state of a generator.
            torch.manual_seed(trainer.seed * _APART + step)
            with layers.step():
                loss = trainee.backward(step, trainer, precision)
                norm = trainee.norm()
                # Before the optimizer: where losses are read at once, a gradient that is not
                # finite never reaches the parameters.
                unread.add(done, lr, loss, norm)
                apply(optimizer, lr, optimizers.shrink(norm, trainer.clip))
            trainee.constrain(optimizer, done)
            if average:
                average.add(done)

            nats = None
            if training.valid and trainer.valid_every and done % trainer.valid_every == 0:
                with layers.plain():
                    nats = validate(
                        model,
                        training.valid,
                        trainee.logp,
                        # The lease must outlast it; whether to stop is asked after the step.
                        alive=partial(training.pulse, step),
                    )
            if metrics.is_due(done, nats):
                unread.read()
            for each in unread.taken():
                of_step = nats if each.done == done else None
                metrics.add(each.done, each.loss, each.lr, each.norm, of_step)

            # A disk that is full stops the training now, not at the next checkpoint.
            writer.check()
            # After the metrics: who is told of a step finds its line there.
            stop = training.pulse(done)
            if stop or done % trainer.checkpoint_every == 0 or done == steps:
                # All losses so far before the parameters, and both before anything is published:
                # a checkpoint that stands was good.
                unread.read()
                if not trainee.finite():
                    writer.wait()
                    raise _failed(folder, done, "parameters that are not finite", lr)
                state |= {"step": done, "compiled": layers.state}
                trainee.save(writer, folder, optimizer, state)
            if stop and done < steps:
                metrics.close()
                # Whoever asked may end the process as soon as it hears that training has stopped.
                writer.wait()
                raise TrainingStoppedError(f"stopped after step {done}")
    layers.stop()
    metrics.close()
    if training.keep_moments:
        trainee.save_moments(folder / checkpoint.MOMENTS, optimizer)
    # Before the weights are written: that gives the parameters the type they are stored in.
    size = optimizers.state_size(optimizer)
    if average:
        average.settle()
    trainee.write(folder, stored_dtype)
    return Trained(
        steps=steps,
        tokens=trainee.tokens(steps),
        flops=trainee.flops(steps),
        exact=state["exact"],
        notes=[
            *state["notes"],
            *laid_out,
            *layers.notes,
            *([average.said] if average else []),
            *([] if trainer.optimizer == "adamw" else [f"{trainer.optimizer}: {size}"]),
        ],
        optimizer=asdict(size),
        loss=metrics.last_loss,
        trainer=asdict(trainer),
        precision=precision,
        schedule=asdict(training.schedule),
    )


def _begin(
    training: Training, trainee: Trainee, optimizer: "torch.optim.Optimizer", precision: str
) -> Json:
    """Load the newest checkpoint, or else the moments to begin with; return the state."""
    folder, trainer = training.folder, training.trainer
    settings = settings_of(trainer, training.schedule, training.steps) | trainee.settings()
    device = str(trainee.model.device)
    environment = environment_of(precision, trainer, device) | {"processes": trainee.processes}
    state = resume(folder, trainee, optimizer, settings, environment)
    trainee.restore(checkpoint.latest(folder))
    # A checkpoint has moments of its own, which are further on.
    if state["step"] == 0 and training.moments is not None:
        trainee.load_moments(training.moments, optimizer)
    if state["step"] < training.steps:
        copies = 1 if trainee.trajectory else 0
        durable.require_space(folder, checkpoint.disk_bytes(trainee.trained, copies))
    return state


def _failed(folder: Path, step: int, found: str, lr: float) -> TrainingFailedError:
    kept = checkpoint.latest(folder)
    return TrainingFailedError(
        f"training of {lease.name_of(folder)!r} stopped at step {step}: {found}; "
        f"last good state: {kept.name if kept else 'the branch itself'}. "
        f"Lower trainer.lr (it was {lr:g}), delete {folder.with_name(lease.name_of(folder))} and "
        "branch again"
    )
