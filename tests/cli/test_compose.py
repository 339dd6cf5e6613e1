"""Composition: bundles are composed once a process, and every configuration is hydra's own."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from btm.cli.compose import compose, conf_folder
from btm.config.validation import validate

COMMANDS = [
    [],
    ["experiment=smoke", "trainer.steps=3", "run.rounds=[[law],[med]]"],
    ["trainer.steps=3", "experiment=smoke"],  # a bundle is read first wherever it stands
    ["size=mini", "ensemble=tracking", "model.config.hidden_size=32"],
    ["data=folder", "data.root=texts", "weights={law: 0.7, med: 0.3}", "trainer.betas=[0.8,0.9]"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_it_is_what_hydra_composes(words):
    found = [compose(words), compose(words)]
    with initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
        forced = [f"++{word}" if word.startswith("model.config.") else word for word in words]
        wanted = validate(OmegaConf.to_object(hydra_compose("config", forced)))
    assert found == [wanted, wanted]


def test_what_is_changed_in_one_is_changed_in_no_other():
    first = compose(["experiment=smoke"])
    first.model.config["hidden_size"], first.run.rounds[0][0] = 1, "changed"
    again = compose(["experiment=smoke"])
    assert again.model.config["hidden_size"] == 64
    assert again.run.rounds[0] == ["bible", "code_python"]


def test_a_dictionary_by_names_replaces_that_of_an_experiment():
    assert compose(["experiment=commons_smoke"]).commons.wanted == {"speeches": 30_720}
    found = compose(["experiment=commons_smoke", "commons.wanted={law: 1000}"])
    assert found.commons.wanted == {"law": 1000}


def test_options_join_those_of_an_experiment():
    found = compose(["experiment=commons_smoke", "commons.gate={margin: 0.5}"])
    assert found.commons.gate == {"layer_z": 1.0e3, "norm_ratio": 1.0e3, "margin": 0.5}
