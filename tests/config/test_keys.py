"""Every key of the configuration declares a meaning, and its choices are those that are checked."""

import re
from dataclasses import asdict, fields, is_dataclass

import pytest
from omegaconf import OmegaConf

from btm.cli.help import shown_name
from btm.config.keys import keys_of
from btm.config.schema import Config
from btm.config.validation import from_dict, validate
from btm.errors import UserError

KEYS = {key.name: key for key in keys_of(Config())}


def leaves(node, prefix=""):
    for item in fields(node):
        value = getattr(node, item.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def with_value(name, value):
    config = Config()
    *sections, last = name.split(".")
    node = config
    for section in sections:
        node = getattr(node, section)
    setattr(node, last, value)
    return config


def test_every_key_is_listed_with_a_meaning():
    assert list(KEYS) == list(leaves(Config()))
    for key in KEYS.values():
        assert 10 < len(key.meaning) < 160, key.name
        assert "\n" not in key.meaning
        assert not key.meaning.endswith("."), key.name


def test_keys_without_a_value_say_what_null_means():
    for key in KEYS.values():  # a verb that needs a key of no section says so where it is missing
        if key.default is None and key.section and key.name != "imports.source":
            assert "null" in key.meaning, key.name


@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if key.choices])
def test_declared_choices_are_the_checked_ones(name):
    key = KEYS[name]
    many = isinstance(key.default, list)
    assert many or key.default is None or key.default in key.choices
    with pytest.raises(UserError, match=re.escape(shown_name(key))):
        validate(with_value(name, ["nothing"] if many else "nothing"))
    for choice in key.choices:
        try:
            validate(with_value(name, [choice] if many else choice))
        except UserError as error:  # of another key that goes with it, never of the word itself
            assert "choose one of" not in str(error)
            assert "wanted one of" not in str(error)


def test_configurations_share_no_list():
    Config().trainer.betas.append(1.0)
    Config().trainer.mirrors.append("wandb")
    assert (Config().trainer.betas, Config().trainer.mirrors) == ([0.9, 0.95], [])


def test_dataclasses_with_meanings_are_what_omegaconf_and_from_dict_take():
    assert OmegaConf.to_object(OmegaConf.structured(Config)) == Config()
    assert from_dict(asdict(Config())) == Config()
