"""`btm run --regrow` removes what stands with other settings, and grows it anew."""

import json

import pytest

from btm import steps
from btm.cli.main import main
from btm.errors import TrainingStoppedError
from btm.forest import Forest, removal, tombstone
from btm.report import Reporter
from btm.steps.regrow import REASON


@pytest.fixture
def words(grown, workspace, copy, tmp_path):
    """The words of the shared run, for a copy of its forest."""
    return [*workspace, f"forest={tmp_path / 'forest'}", "cluster=debug"]


def hashes(root):
    return {elm.name: elm.card.sha256 for elm in Forest(root).elms()}


def test_an_expert_of_other_settings_is_grown_anew_alone(words, capsys, tmp_path):
    """The last round alone has another rate: what it was made of stays as it is."""
    root = tmp_path / "forest"
    before = hashes(root)
    card = root / "elms/speeches/card.json"
    values = json.loads(card.read_bytes())
    values["settings"]["trainer.weight_decay"] = 0.7
    card.write_text(json.dumps(values))
    assert main(["run", *words]) == 2
    assert "--regrow" in capsys.readouterr().err
    assert main(["run", *words, "--regrow"]) == 0
    said = capsys.readouterr().err
    assert "removing speeches: trainer.weight_decay was 0.7, now" in said
    assert hashes(root) == before  # the same words give the same bytes
    assert not tombstone.names(root)
    stones = [stone for stone in tombstone.all_of(root) if stone.name == "speeches"]
    assert stones[0].card.settings["trainer.weight_decay"] == 0.7
    assert stones[0].reason == REASON


def test_what_descends_from_it_goes_too_and_comes_back(words, capsys, tmp_path):
    root = tmp_path / "forest"
    before = hashes(root)
    other = [*words, "trainer.steps=8"]
    assert main(["run", *other, "--regrow", "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    jobs = {row["job"]: row["what"] for row in rows}
    assert jobs["remove bible"].startswith("remove it: trainer.steps was 12, now 8")
    assert jobs[
        "remove seed"
    ]  # its schedule is as long as that of the experts (trainer.carry=auto)
    assert jobs["train-bible"] == "train 8 steps"
    assert hashes(root) == before
    assert main(["run", *other, "--regrow"]) == 0
    after = hashes(root)
    assert {name for name in before if after[name] != before[name]} == set(before)
    capsys.readouterr()
    assert main(["verify", f"forest={root}"]) == 0, capsys.readouterr().out  # averages went too
    assert {elm.card.steps for elm in Forest(root).elms() if elm.card.parents} == {8}
    capsys.readouterr()
    assert main(["run", *other, "--regrow"]) == 0  # nothing differs any more
    assert "removing" not in capsys.readouterr().err
    assert hashes(root) == after


def test_killed_between_removal_and_training_the_same_command_goes_on(words, tmp_path):
    root = tmp_path / "forest"
    forest, before = Forest(root), hashes(root)
    removal.remove(forest, "speeches", reason=REASON)
    assert main(["run", *words, "--regrow"]) == 0
    assert hashes(root) == before


def test_an_expert_that_the_words_do_not_make_is_not_lost(words, capsys, tmp_path, copy):
    root = tmp_path / "forest"
    steps.branch(copy(), "extra", "novels", among=["bible"])
    steps.train(copy(), "extra")
    steps.merge(copy("merge.force=true"), "extra")
    before = hashes(root)
    assert main(["run", *words, "trainer.steps=8", "--regrow"]) == 2
    line = capsys.readouterr().err.strip()
    assert "--regrow: extra would go too" in line and "\n" not in line
    assert hashes(root) == before


def test_another_architecture_stays_refused(words, capsys, tmp_path):
    before = hashes(tmp_path / "forest")
    assert main(["run", *words, "model.config.hidden_size=32", "--regrow"]) == 2
    assert "hidden_size was 64, now 32" in capsys.readouterr().err
    assert hashes(tmp_path / "forest") == before


def test_what_is_half_trained_with_other_settings_is_begun_anew(words, capsys, tmp_path, copy):
    """A training was stopped after its first checkpoint; the cycle has other steps now."""
    root = tmp_path / "forest"
    before = hashes(root)
    removal.remove(Forest(root), "speeches", reason=REASON)
    removal.readmit(Forest(root), "speeches")
    longer = copy("trainer.steps=40")
    steps.branch(longer, "speeches", "speeches", among=["bible", "code_python"])

    class Stop(Reporter):
        def pulse(self, step):
            return step >= 5

    with pytest.raises(TrainingStoppedError):
        steps.train(longer, "speeches", Stop())
    assert main(["run", *words]) == 2
    assert "half trained with other settings" in capsys.readouterr().err
    assert main(["run", *words, "--regrow"]) == 0
    assert "removing speeches: it is half trained" in capsys.readouterr().err
    assert hashes(root) == before
