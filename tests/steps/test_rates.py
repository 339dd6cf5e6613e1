"""The learning rate: by the model's size, by a short test, or as given."""

import json

import pytest

from btm import steps
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.paths import ModelFolder
from btm.models import weights
from btm.report import Reporter
from btm.steps import rates
from btm.train import loop
from btm.train.schedule import default_lr


@pytest.fixture
def words(grown, workspace, tmp_path):
    """A function from overrides to a configuration of a forest that is still to be planted."""
    return lambda *more: compose([*workspace, f"forest={tmp_path / 'new'}", "seed.lr=null", *more])


def test_the_default_falls_with_size_and_meets_published_rates():
    sizes = [0.2e6, 1e6, 7e6, 125e6, 1.3e9]
    assert sorted(map(default_lr, sizes), reverse=True) == [default_lr(n) for n in sizes]
    assert default_lr(125e6) == 6e-4
    assert 1.5e-4 < default_lr(1.3e9) < 3e-4


def test_without_a_rate_the_size_decides_and_cards_say_so(words):
    config = words("trainer.lr=null", "seed.steps=4", "trainer.steps=3", "trainer.carry=fresh")
    seed = steps.seed(config)
    assert seed.card.lr == default_lr(seed.card.parameters)
    expert = steps.grow_expert(config, "bible", ["seed"])
    assert expert.card.lr == seed.card.lr


def test_a_rate_that_was_given_is_taken_by_all(words):
    config = words("trainer.lr=0.002", "seed.steps=4", "trainer.steps=3", "trainer.carry=fresh")
    assert steps.seed(config).card.lr == 0.002
    assert steps.grow_expert(config, "bible", ["seed"]).card.lr == 0.002


@pytest.mark.slow
def test_find_takes_the_rate_of_the_lowest_loss(words, monkeypatch):
    monkeypatch.setattr(rates, "FACTORS", (0.01, 1.0))
    config = words("trainer.lr=find", "seed.steps=4", "trainer.steps=3", "trainer.carry=fresh")
    seed = steps.seed(config)
    found = json.loads(ModelFolder(seed.path).rates.read_text())
    low, usual = found["tried"]
    assert usual["loss"] < low["loss"] - 0.5  # a hundredth of the rate learns next to nothing
    assert found["lr"] == usual["lr"] == seed.card.lr == default_lr(weights.parameters(seed.path))
    assert steps.grow_expert(config, "bible", ["seed"]).card.lr == seed.card.lr


def test_a_test_that_is_stopped_finds_nothing_and_is_done_again(words, monkeypatch):
    monkeypatch.setattr(rates, "FACTORS", (1.0,))
    monkeypatch.setattr(rates, "_FEWEST", 3)
    config = words("trainer.lr=find", "seed.steps=4")

    class Stopping(Reporter):
        def pulse(self, step):
            return True

    with pytest.raises(loop.TrainingStoppedError, match="while learning rates were tried"):
        steps.seed(config, Stopping())
    branch = Forest(config.forest_root).get_branch("seed")
    assert not branch.files.rates.exists()
    assert steps.seed(config).card.lr == default_lr(
        weights.parameters(branch.path.parent.parent / "elms/seed")
    )


def test_experts_of_a_seed_that_was_not_trained_here_cannot_take_its_rate(words):
    config = words("trainer.lr=find", "seed.steps=0", "trainer.steps=3")
    steps.seed(config)
    with pytest.raises(
        UserError, match="nothing was tested for 'bible', nor for the seed: give a number"
    ):
        steps.grow_expert(config, "bible", ["seed"])


def test_another_word_is_refused(words):
    with pytest.raises(UserError, match=r"trainer\.lr=fnd: wanted a positive number, or find"):
        words("trainer.lr=fnd")
