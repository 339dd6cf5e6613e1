"""What nothing needs goes; what anything may need stays."""

import json
import shutil

import pytest
from folders import tree

from btm import steps
from btm.cli import main
from btm.forest import Forest, gc, index, removal
from btm.system import durable


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """An index of no other test's forest, which would be waste once that forest is gone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(capsys, *words):
    code = main.main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_forest_in_order_has_no_waste(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = copy("branch=copy", "trainer.steps=2")
    steps.branch(config, "tales", "novels")
    steps.train(config, "tales")  # its scores are of weights that no ELM has yet
    assert gc.find(Forest(config.forest_root)) == []


def test_waste_is_listed_then_deleted(copy, workspace, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = copy()
    forest = Forest(config.forest_root)
    words = [*workspace, f"forest={forest.root}"]
    index.entries(forest.root)
    (index.folder() / "old.sqlite").write_text("no database")
    shelf = next((forest.root / "scores").iterdir())
    (shelf / f"{'0' * 64}.npy").write_bytes(b"x" * 100)
    for place in ("elms", "targets/bible-train-0-w64/0"):
        (forest.root / place / ".tmp-gone-0-0-1-1-x").mkdir(parents=True)
    twin = shutil.copytree(forest["bible"].path, forest.root / "branches/bible")
    assert (twin / "branch.json").exists()
    kept = (
        tree(forest.root / "elms/bible")
        | tree(forest.root / "averages")
        | tree(forest.root / "evals")
    )
    before = tree(tmp_path)
    code, out, _ = run(capsys, "gc", "--dry-run", *words)
    assert code == 0
    assert all(said in out for said in ("0000.npy", "cannot be read", "whose ELM stands", "100 B"))
    assert tree(tmp_path) == before
    code, out, _ = run(capsys, "gc", "--json", *words)
    assert code == 0
    assert len(json.loads(out)) >= 3
    assert kept == tree(forest.root / "elms/bible") | tree(forest.root / "averages") | tree(
        forest.root / "evals"
    )
    assert gc.find(forest) == []
    assert "everything is needed" in run(capsys, "gc", "--dry-run", *words)[1]
    assert forest.names() == ["bible", "code_python", "seed", "speeches"]


def test_what_a_process_works_on_is_left_alone(copy):
    config = copy("branch=copy")
    forest = Forest(config.forest_root)
    steps.branch(config, "tales", "novels")
    shelf = next((forest.root / "scores").iterdir())
    (shelf / f"{'0' * 64}.npy").write_bytes(b"x")
    with forest.hold("tales"):
        assert gc.collect(forest) == []
    assert [waste.path.name for waste in gc.collect(forest)] == [f"{'0' * 64}.npy"]
    assert forest.has_branch("tales")


def test_fisher_information_stays_while_its_weights_do(copy):
    words = ["average.method=fisher", "average.sequences=2", "average.experts=[bible,code_python]"]
    config = copy(*words)
    steps.average(config)
    forest = Forest(config.forest_root)
    own = {
        name: forest.paths.fishers_of(forest[name].card.sha256) for name in ("bible", "code_python")
    }
    assert [len(found) for found in own.values()] == [1, 1]
    stale = own["bible"][0].rename(own["bible"][0].with_name("0" * 32 + own["bible"][0].name[32:]))
    assert [waste.path for waste in gc.collect(forest)] == [stale]
    assert own["code_python"][0].is_dir()
    removal.remove(forest, "code_python")
    assert not own["code_python"][0].exists()


def test_a_half_trained_reader_stays_while_what_it_stands_on_does(copy):
    forest = Forest(copy().forest_root)
    making = forest.paths.reader_in_making("links") / "making.json"
    durable.make_folder(making.parent)
    durable.write_json(making, {"models": {"bible": forest["bible"].card.sha256}})
    assert gc.collect(forest) == []
    removal.remove(forest, "bible")
    assert [waste.path for waste in gc.collect(forest)] == [making.parent]
    assert not making.parent.exists()


def test_leftovers_of_a_removal(copy):
    forest = Forest(copy().forest_root)
    removal.remove(forest, "bible")
    left = forest.paths.bin("bible") / "elms-bible"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"x")
    assert [waste.why for waste in gc.collect(forest)] == ["of a removal that was not finished"]
    assert not left.parent.exists()
