"""What stands under the name of what is asked for is that, or the command is refused."""

import json
from dataclasses import replace

import pytest

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.errors import UserError
from btm.forest import Forest
from btm.steps import conflicts, rederive


def refused(words, capsys, *flags):
    """Run `btm run` with these words; return the one line that refuses it."""
    capsys.readouterr()
    assert main(["run", *words, *flags]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


@pytest.fixture
def words(grown, workspace, copy, tmp_path):
    """The words of the shared run, for a copy of its forest."""
    return [*workspace, f"forest={tmp_path / 'forest'}", "cluster=debug"]


def test_cards_keep_the_settings_of_their_training(forest):
    seed, expert = forest["seed"].card.settings, forest["bible"].card.settings
    assert (seed["seed.steps"], expert["trainer.steps"]) == (24, 12)
    assert expert["trainer.lr"] == forest["bible"].card.lr
    assert "trainer.threads" not in expert
    assert forest["speeches"].card.settings["branch"] == "posterior"  # of two candidates
    assert "branch" not in expert  # of one


def test_a_run_of_other_settings_is_refused_in_one_line(words, capsys):
    other = [*words, "trainer.steps=40", "trainer.lr=3e-2", "seed.steps=48"]
    for flags in ((), ("--dry-run",)):
        line = refused(other, capsys, *flags)
        for told in ("trainer.steps was 12, now 40", "now 0.03", "seed.steps was 24, now 48"):
            assert told in line
        for way in ("another forest=", "btm remove", "--readmit"):
            assert way in line


def test_another_model_is_refused_by_the_fields_that_differ(words, capsys):
    line = refused([*words, "model.config.hidden_size=32"], capsys)
    assert "model.config.hidden_size was 64, now 32" in line
    assert "btm remove" not in line


def test_settings_of_the_machine_do_not_matter(copy, forest):
    precision = forest["seed"].card.settings["trainer.precision"]  # which auto has chosen
    config = copy(
        "trainer.threads=1", "trainer.checkpoint_every=3", "trainer.micro_batch_size=1",
        f"trainer.precision={precision}", "cluster.retries=7", "trainer.device=cpu", "score.batch_size=3",
    )  # fmt: skip
    before = {name: Forest(config.forest_root)[name].card for name in ("seed", "bible")}
    steps.run(config)
    assert {name: Forest(config.forest_root)[name].card for name in before} == before


def test_an_expert_of_other_parents_is_refused(copy):
    config = copy("run.rounds=[[speeches],[bible]]")
    with pytest.raises(UserError, match=r"parents was .*, now seed .speeches"):
        steps.run(config)


def test_an_expert_that_was_weighed_among_others_is_named(copy):
    config = copy("trainer.steps=2")
    forest = Forest(config.forest_root)
    steps.branch(config, "novels", "novels", among=["bible"])
    steps.train(config, "novels")

    def differing(*rounds):
        found = conflicts.of_cycle(copy(), rounds)
        return {
            name: str(each)
            for name, differences in found.items()
            for each in differences
            if each.key == "candidates"
        }

    both = ["bible", "code_python"]
    assert forest["speeches"].card.settings["candidates"] == both
    assert differing(both, ["speeches"]) == {}
    assert differing([*both, "novels"], ["speeches"]) == {
        "speeches": "candidates was bible, code_python, now bible, code_python, novels"
    }
    assert differing(["bible"], ["novels"]) == {}
    assert differing(both, ["novels"]) == {"novels": "candidates was bible, now bible, code_python"}


def test_what_was_made_again_or_was_never_weighed_is_no_other_candidate(copy):
    config = copy()
    forest = Forest(config.forest_root)
    rederive.rederive(config, "bible")
    assert forest["speeches"].card.settings["candidates"] == ["code_python"]
    assert conflicts.of_cycle(config, [["code_python"], ["speeches"]]) == {}
    config = compose([f"forest={forest.root}", "weights={code_python: 1}", "trainer.steps=2"])
    steps.branch(config, "novels", "novels")
    steps.train(config, "novels")
    config = replace(config, weights=None)
    found = conflicts.of_cycle(config, [["code_python", "speeches"], ["novels"]])
    assert "candidates" not in {each.key for each in found.get("novels", [])}


def test_a_card_without_settings_is_taken_as_it_is(copy):
    config = copy("trainer.weight_decay=0.5")
    with pytest.raises(UserError, match="weight_decay was"):
        steps.run(config)
    for file in (Forest(config.forest_root).paths.elms).glob("*/card.json"):
        values = json.loads(file.read_bytes())
        file.write_text(json.dumps({**values, "settings": {}}))
    steps.run(config)


def test_a_trained_branch_of_other_settings_is_refused(copy):
    config = copy("trainer.steps=2")
    steps.branch(config, "more", "novels")
    steps.train(config, "more")
    with pytest.raises(UserError, match=r"trainer\.steps was 2, now 3"):
        steps.train(copy("trainer.steps=3"), "more")
    assert steps.train(config, "more").result
