"""The average of a model along its training: what it is of, kills, and what it does not go with."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from btm import steps
from btm.cli.compose import compose
from btm.config import identity
from btm.config.validation import validate
from btm.data.batches import Batches
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest
from btm.models import causal_lm
from btm.train import loop, schedule, trajectory
from btm.train.training import Training

STEPS = 6


def train(config, name, steps_done=STEPS, stops=(), finish=True, **changes):
    """Train a branch by one schedule of six steps, the first `steps_done` of them; stop and go on
    after each of `stops`."""
    forest = Forest(config.forest_root)
    made = (
        forest.get_branch(name).path
        if forest.has_branch(name)
        else steps.branch(config, name, "bible").path
    )
    trainer = replace(config.trainer, checkpoint_every=4, **changes)
    shard = steps.open_suite(config).shard("bible", "train")
    batches = Batches([shard], trainer.seq_len, trainer.batch_size, trainer.seed)
    plan = schedule.Schedule.of(trainer, horizon=STEPS)

    def training(pulse):
        return Training(made, batches, trainer, plan, steps_done, pulse=pulse)

    for stop in stops:
        with pytest.raises(TrainingStoppedError):
            loop.train(training(lambda step, at=stop: step == at))
    return made, loop.train(training(lambda step: False)) if finish else None


def tensors(folder):
    return load_file(folder / "model.safetensors")


def along(config, which):
    """The parameters after each of the steps `which`, trained by the same schedule."""
    found = {}
    for step in which:
        made, _ = train(config, f"to-{step}", step)
        found[step] = tensors(made)
    return found


def test_the_weights_are_the_mean_of_the_last_points(copy):
    config = copy("branch=copy")
    points = along(config, (2, 4, 6))
    made, done = train(config, "averaged", average_last=3, average_every=2)
    mean = tensors(made)
    for name, last in points[6].items():
        wanted = np.mean([points[step][name] for step in points], axis=0, dtype=np.float64)
        np.testing.assert_allclose(mean[name], wanted, rtol=1e-5, atol=1e-7)
        assert last.ndim < 2 or not np.array_equal(mean[name], last)
    assert "the average of the last 3 points of its own training, 2 steps apart" in done.notes


def test_a_moving_average_weighs_every_step_by_its_age(copy):
    config = copy("branch=copy")
    points = along(config, range(1, STEPS + 1))
    made, done = train(config, "averaged", average_decay=0.5)
    mean = tensors(made)
    ages = np.array([0.5 ** (STEPS - step) for step in points])
    for name in points[STEPS]:
        each = np.stack([points[step][name] for step in points]).astype(np.float64)
        wanted = np.tensordot(ages / ages.sum(), each, axes=1)
        np.testing.assert_allclose(mean[name], wanted, rtol=1e-4, atol=1e-6)
    assert any("exponential moving average" in note for note in done.notes)


@pytest.mark.parametrize("how", [{"average_last": 4, "average_every": 1}, {"average_decay": 0.9}])
def test_a_stopped_training_gives_the_bytes_of_an_unbroken_one(copy, how):
    config = copy("branch=copy")
    unbroken, _ = train(config, "unbroken", **how)
    stopped, done = train(config, "stopped", stops=(1, 3, 5), **how)
    assert (stopped / "model.safetensors").read_bytes() == (
        unbroken / "model.safetensors"
    ).read_bytes()
    assert done.exact


def test_more_points_than_the_training_has_are_all_of_them(copy):
    config = copy("branch=copy")
    _, done = train(config, "averaged", average_last=100, average_every=4)
    assert "the average of the last 2 points of its own training, 4 steps apart" in done.notes


def test_a_training_with_another_average_is_not_resumed(copy):
    config = copy("branch=copy")
    train(config, "new", stops=(2,), finish=False, average_last=2)
    with pytest.raises(UserError, match="average_last was 2, now 3"):
        train(config, "new", average_last=3)


def test_a_checkpoint_that_lost_its_average_is_named(copy):
    config = copy("branch=copy")
    model = causal_lm.load_trainable(Forest(config.forest_root)["seed"].path, "cpu")
    mean = trajectory.of(model, replace(config.trainer, average_decay=0.9), 10)
    mean.add(1)
    folder = Forest(config.forest_root).root / "checkpoint-00000001"
    folder.mkdir()
    from safetensors.torch import save_file

    kept = mean.state()
    kept.pop(next(name for name in kept if name.startswith("average.")))
    save_file(kept, folder / "trainee.safetensors")
    with pytest.raises(UserError, match="no average of"):
        mean.restore(folder)


def test_an_elm_with_another_average_is_another(copy):
    plain, averaged = (
        identity.of_trainer(replace(copy().trainer, average_last=last)) for last in (0, 8)
    )
    for stands, asked in ((plain, averaged), (averaged, plain)):
        found = [str(each) for each in identity.differences(stands, asked)]
        assert any(each.startswith("trainer.average_last was") for each in found)
    assert not identity.differences(plain, plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.average_last=1"], "wanted 2 or more"),
        (["trainer.average_last=-2"], "trainer.average_last=-2"),
        (["trainer.average_decay=1"], r"wanted \[0, 1\)"),
        (["trainer.average_last=4", "trainer.average_decay=0.9"], "leave out trainer.average_last"),
        (["trainer.average_every=5"], "give trainer.average_last with it"),
        (["trainer.average_last=4", "trainer.delta_density=0.1"], "does not go with"),
        (["trainer.average_decay=0.9", "trainer=fairseq"], "fairseq can do with 0 alone"),
        (["trainer.average_last=4", "cluster.gpus_per_expert=2"], "does not go with"),
    ],
)
def test_what_it_does_not_go_with_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        validate(compose(words))
