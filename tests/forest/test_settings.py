"""What a forest records of its settings: defaults beneath the user's words, written once, damage
named.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from folders import tree

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.config.validation import from_dict
from btm.errors import UserError
from btm.forest import Forest, settings, verify
from btm.system import sums


@pytest.fixture
def root(grown, tmp_path):
    """The root of this test's copy of the shared forest."""
    return Path(shutil.copytree(grown[0].forest_root, tmp_path / "own" / "forest"))


def test_forest_alone_brings_back_the_words_it_was_grown_with(grown, root):
    wanted, found = asdict(grown[0]), asdict(compose([f"forest={root}"], "eval"))
    for values in (wanted, found):
        del values["forest"]
    assert found == wanted
    assert compose([], "eval").trainer.steps != wanted["trainer"]["steps"]


def test_what_the_machine_decides_is_not_recorded(grown, root, copy):
    config = copy(
        "trainer.threads=1", "trainer.device=cpu", "score.batch_size=3", "ensemble.experts=[bible]"
    )
    forest = Forest(shutil.copytree(root, root.with_name("seed only")))
    for name in set(forest.names()) - {"seed"}:
        shutil.rmtree(forest.root / "elms" / name)
    settings.record(config, forest, steps.open_suite(config))
    found = compose([f"forest={forest.root}"], "eval")
    assert (found.trainer.threads, found.trainer.device, found.score.batch_size) == (0, "auto", 32)
    assert found.ensemble.experts == []


@pytest.mark.parametrize(("recorded", "now"), [(True, "document"), (False, "window")])
def test_a_value_of_an_earlier_version_is_translated(root, recorded, now):
    file = root / "settings.json"
    values = json.loads(file.read_bytes())
    values["settings"]["ensemble"]["carry"] = recorded
    file.write_text(json.dumps(sums.checked(values)))
    assert compose([f"forest={root}"], "eval").ensemble.carry == now
    assert from_dict({"ensemble": {"carry": recorded}}).ensemble.carry == now
    with pytest.raises(UserError, match=r"ensemble\.carry=true: .* give window .* or document"):
        compose([f"forest={root}", "ensemble.carry=true"], "eval")


@pytest.mark.parametrize(
    ("words", "key", "wanted"),
    [
        (["trainer.lr=1e-4"], "trainer.lr", 1e-4),
        (["trainer.lr=1e-4"], "trainer.steps", 12),
        (["trainer=paper"], "trainer.steps", 40000),
        (["trainer=paper"], "seed.steps", 24),
        (["ensemble=uniform"], "ensemble.prior", "uniform"),
        (
            ["model.config.hidden_size=32"],
            "model.config",
            {"hidden_size": 32, "num_hidden_layers": 2},
        ),
        (["model=pico"], "model.config", {"num_hidden_layers": 4}),
        (["run.domains=[bible]"], "run.rounds", []),
        (["run.average=false"], "run.rounds", [["bible", "code_python"], ["speeches"]]),
        (["data=demo"], "data.name", "demo"),
        (["data.name=other"], "run.rounds", []),
        (["experiment=demo"], "trainer.steps", 240),
        (["baseline=dense"], "seed.steps", 24),
    ],
)
def test_what_the_user_names_wins(root, words, key, wanted):
    section, _, name = key.partition(".")
    found = getattr(getattr(compose([f"forest={root}", *words], "run"), section), name)
    if isinstance(wanted, dict):
        found = {inner: found.get(inner) for inner in wanted}
    assert found == wanted


def test_a_suite_of_its_own_name_lies_beside_the_recorded_one(grown, root):
    assert compose([f"forest={root}", "data.name=other"], "prepare").data.out == grown[0].data.out
    assert compose([f"forest={root}", "data=demo"], "prepare").data.out == "data"


def test_the_words_of_the_first_expert_stay(copy):
    config = copy("trainer.lr=1e-5", "trainer.steps=99")
    forest, before = Forest(config.forest_root), tree(config.forest_root)
    settings.record(config, forest, steps.open_suite(config))
    assert tree(forest.root) == before
    for name in set(forest.names()) - {"seed"}:
        shutil.rmtree(forest.root / "elms" / name)
    settings.record(config, forest, steps.open_suite(config))
    assert compose([f"forest={forest.root}"], "eval").trainer.steps == 99


def test_a_baselines_forest_needs_no_words_either(copy, grown):
    config = copy("baseline=dense")
    shutil.copytree(grown[0].forest_root, config.forest_root)
    forest = Forest(config.forest_root)
    for name in set(forest.names()) - {"seed"}:
        shutil.rmtree(forest.root / "elms" / name)
    settings.record(config, forest, steps.open_suite(config))
    alone = compose([f"forest={forest.root}"], "eval")
    assert alone.trainer == config.trainer and alone.data.root == config.data.root
    assert alone.run.rounds == []


def test_a_damaged_record_is_one_line_and_is_found(root, capsys):
    (root / "settings.json").write_text((root / "settings.json").read_text().replace("12", "13"))
    assert main.main(["eval", f"forest={root}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "settings.json: not as btm wrote it; delete it" in said
    assert main.main(["ls", f"forest={root}"]) == 0
    assert [finding.what for finding in verify.verify(root)] == ["settings.json"]
    (root / "suites/smoke.json").write_text("{}")
    assert [finding.what for finding in verify.verify(root)] == [
        "settings.json",
        "suites/smoke.json",
    ]


def test_a_record_of_a_newer_btm_is_one_line(root, capsys):
    values = json.loads((root / "settings.json").read_bytes())
    (root / "settings.json").write_text(json.dumps(values | {"schema": 2}))
    assert main.main(["eval", f"forest={root}"]) == 2
    assert "written by a newer btm" in capsys.readouterr().err


def test_an_older_forest_opens_with_its_words_and_records_them_when_it_grows(copy):
    config = copy()
    root = Path(config.forest_root)
    (root / "settings.json").unlink()
    shutil.rmtree(root / "suites")
    assert compose([f"forest={root}"], "eval").trainer.steps == 0
    assert steps.open_suites(config).domains() == ["bible", "code_python", "novels", "speeches"]
    steps.seed(config)
    assert compose([f"forest={root}"], "eval").trainer == config.trainer
