"""Every key of a training is one that makes its result, or one that does not."""

from dataclasses import replace

import pytest

from btm.config import identity
from btm.config.identity import Difference, differences
from btm.config.keys import keys_of
from btm.config.schema import Config
from btm.config.training import FairseqConfig, SeedConfig, TrainerConfig

SECTIONS = {"trainer": TrainerConfig(), "fairseq": FairseqConfig(), "seed": SeedConfig()}


def _config(**sections):
    made = Config()
    for name, values in sections.items():
        setattr(made, name, replace(getattr(made, name), **values))
    return made


def test_each_key_is_classified_once():
    keys = {f"{name}.{key.name}" for name, section in SECTIONS.items() for key in keys_of(section)}
    assert keys == identity.OF_RESULT | identity.OF_MACHINE
    assert not identity.OF_RESULT & identity.OF_MACHINE


# What makes the other keys count, and values that are not the default.
EFFECTIVE = {
    "trainer.embedding_bits": ({"optimizer": "adamw8bit"}, 32),
    "trainer.decay_power": ({"decay": "polynomial"}, 2.0),
    "trainer.decay_share": ({"decay": "wsd"}, 0.5),
    "trainer.delta_every": ({"delta_density": 0.1}, 7),
    "trainer.delta_prune": ({"delta_density": 0.1}, 0.25),
    "trainer.delta_mask": ({"delta_density": 0.1}, "random"),
    "trainer.average_every": ({"average_last": 4}, 3),
    "trainer.lora_rank": ({"adapter": "lora"}, 4),
    "trainer.lora_alpha": ({"adapter": "lora"}, 32.0),
    "trainer.lora_targets": ({"adapter": "lora"}, ["q_proj"]),
}
OTHERS = {
    "trainer.backend": "fairseq",
    "trainer.adapter": "lora",
    "trainer.optimizer": "adamw8bit",
    "trainer.decay": "linear",
    "trainer.carry": "continue",
    "trainer.precision": "bf16",
    "trainer.betas": [0.5, 0.6],
}


@pytest.mark.parametrize(
    "key", sorted(key for key in identity.OF_RESULT if key.startswith("trainer."))
)
def test_each_setting_of_a_result_makes_a_difference(key):
    name = key.partition(".")[2]
    if name == "lr":  # resolved by who asks
        one, other = identity.of_expert(Config(), 0.1, continues=False), {"trainer.lr": 0.2}
        assert differences(one, other) == [Difference(key, 0.1, 0.2)]
        return
    base, value = EFFECTIVE.get(key, ({}, None))
    default = getattr(TrainerConfig(), name)
    value = value or OTHERS.get(key) or default / 2 or 1
    one, other = _config(trainer=base), _config(trainer={**base, name: value})
    continues = [config.trainer.carry == "continue" for config in (one, other)]
    settings = [
        identity.of_expert(config, 0.1, continues=how)
        for config, how in zip((one, other), continues, strict=True)
    ]
    assert key in {found.key for found in differences(*settings)}


@pytest.mark.parametrize(
    "key", sorted(key for key in identity.OF_MACHINE if key.startswith("trainer."))
)
def test_no_setting_of_the_machine_makes_a_difference(key):
    name = key.partition(".")[2]
    default = getattr(TrainerConfig(), name)
    value = not default if isinstance(default, bool) else "other" if default else 7
    other = _config(trainer={name: value})
    settings = [identity.of_expert(config, 0.1, continues=False) for config in (Config(), other)]
    assert settings[0] == settings[1]


def test_what_has_no_effect_is_no_difference():
    cosine, power = _config(), _config(trainer={"decay_power": 3.0, "decay_share": 0.5})
    assert identity.of_root(cosine, 0.1) == identity.of_root(power, 0.1)
    assert differences({"trainer.precision": "fp32"}, {"trainer.precision": "auto"}) == []


def test_either_key_may_give_the_rate_of_a_root():
    by_trainer = identity.of_root(Config(), 0.1)
    by_seed = identity.of_root(_config(seed={"lr": 0.1}), 0.1)
    assert differences(by_trainer, by_seed) == []
    assert differences(by_trainer, by_seed | {"seed.lr": 0.3}) == [Difference("seed.lr", 0.1, 0.3)]


def test_seed_steps_left_open_are_those_of_the_experts():
    open_ = [identity.of_root(_config(trainer={"steps": n}), 0.1) for n in (1000, 7)]
    assert differences(*open_) == [Difference("trainer.steps", 1000, 7)]
    given = [
        identity.of_root(_config(seed={"steps": 5}, trainer={"steps": n}), 0.1) for n in (1, 2)
    ]
    assert differences(*given) == []


def test_differences_are_said_once_with_the_names():
    steps = Difference("trainer.steps", 20, 40)
    found = {"seed": [steps], "law": [steps, Difference("trainer.lr", 0.01, None)]}
    said = identity.said(found)
    assert said == "trainer.steps was 20, now 40 (seed, law); trainer.lr was 0.01, now null (law)"


def test_what_is_usually_off_is_a_difference_either_way():
    plain, few = _config(), _config(ensemble={"top_k": 2}, seed={"grow_batch": 4, "sampling": 0.3})
    plain.branch = few.branch = "posterior"
    for one, other in ((plain, few), (few, plain)):
        found = differences(identity.of_branch(one), identity.of_branch(other))
        assert [each.key for each in found] == ["ensemble.top_k"]
        found = differences(identity.of_root(one, 0.1), identity.of_root(other, 0.1))
        assert [each.key for each in found] == ["seed.grow_batch", "seed.sampling"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "null"),
        (True, "true"),
        (0.002, "0.002"),
        (1.0, "1"),
        (0.0018123456789, "0.0018123456789"),
        (["law", "news"], "[law,news]"),
        ((0.9, 0.95), "[0.9,0.95]"),
        ({"law": 0.5, "med": None}, "{law: 0.5, med: null}"),
        ("cosine", "cosine"),
    ],
)
def test_settings_are_spelled_as_the_command_line_takes_them(value, wanted):
    assert identity.spelled(value) == wanted
