"""Averages that are measured without being written: numbers, identity, what is left on disk."""

import json
import subprocess
import sys

import pytest
from folders import tree

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.config.average import AverageConfig
from btm.config.keys import keys_of
from btm.config.recipes import TYPES, WITHOUT_EFFECT
from btm.errors import UserError
from btm.forest import Forest, gc, publish, removal, unwritten
from btm.forest.card import Card
from btm.steps.evaluate import evaluation_stands

HALF = (
    "averages={half: {bible: 0.5, speeches: 0.5}, "
    "drawn: {weights: token, method: task_arithmetic, scale: 0.3}}"
)
SHORT = ["eval.domains=[bible]", "eval.name=av"]


def words(config):
    return [f"forest={config.forest_root}", f"data.out={config.data.out}"]


def row(config, name):
    result = json.loads((Forest(config.forest_root).root / "evals/av.json").read_text())
    return result, result["shards"]["bible/test"]["models"].get(name)


def test_every_key_of_an_average_is_one_of_a_recipe_or_says_nothing():
    assert {key.name for key in keys_of(AverageConfig())} == {*TYPES, *WITHOUT_EFFECT}


def test_it_is_a_row_and_the_written_average_finds_its_scores(copy):
    config = copy(HALF, *SHORT)
    forest = Forest(config.forest_root)
    before = {path.name for path in forest.paths.averages.iterdir()}
    steps.eval_forest(config)
    result, half = row(config, "half")
    assert {path.name for path in forest.paths.averages.iterdir()} == before
    assert not list(forest.root.rglob(".tmp-*"))
    assert result["models"]["half"]["path"] is None
    assert result["models"]["half"]["recipe"]["weights"] == {"bible": 0.5, "speeches": 0.5}
    assert result["ledger"]["models"]["half"]["training"]["tokens"] > 0

    made = {
        "half": ["weights={bible: 0.5, speeches: 0.5}"],
        "drawn": ["weights=token", "average.method=task_arithmetic", "average.scale=0.3"],
    }
    for name, own in made.items():
        assert (
            main(["average", *words(config), *own, "average.measure=false", f"average.name={name}"])
            == 0
        )
        card = Card.read(forest.paths.average(name).card)
        assert result["models"][name]["sha256"] == card.sha256
    scores = {path: path.stat().st_mtime_ns for path in forest.paths.scores.rglob("*.npy")}
    assert main(["eval", *words(config), *SHORT]) == 0
    assert row(config, "half")[1] == half  # now of the written one
    for path, when in scores.items():
        assert path.stat().st_mtime_ns == when  # read, not computed again


def test_an_average_whose_scores_stand_is_not_made_again(copy, monkeypatch):
    config = copy(HALF, *SHORT)
    first = steps.eval_forest(config)
    monkeypatch.setattr(publish, "trial", lambda *a, **k: pytest.fail("it was made again"))
    again = steps.eval_forest(config)
    assert again["models"] == first["models"] and again["shards"] == first["shards"]


def test_the_recipe_is_part_of_the_identity(copy, workspace, tmp_path):
    config = copy("averages={a: {bible: 1, speeches: 1}}", *SHORT)
    assert not evaluation_stands(config)
    steps.eval_forest(config)
    assert evaluation_stands(config)
    other = [*workspace, f"forest={tmp_path / 'forest'}", *SHORT]
    assert not evaluation_stands(compose([*other, "averages={a: {bible: 2, speeches: 1}}"]))


KILLED = """
import os, sys
from btm.forest import Forest, publish
from btm.models.average import Settings
with publish.trial(Forest(sys.argv[1]), {"bible": 1.0, "speeches": 1.0}, Settings()) as folder:
    assert (folder / "model.safetensors").exists()
    os._exit(1)
"""


def test_what_a_kill_leaves_is_swept_by_the_next_evaluation(copy):
    config = copy()
    forest = Forest(config.forest_root)
    subprocess.run([sys.executable, "-c", KILLED, str(forest.root)], check=False)
    assert list(forest.paths.averages.glob(".tmp-*"))
    assert main(["eval", *words(config), *SHORT, "averages={a: {bible: 1, seed: 1}}"]) == 0
    assert not list(forest.root.rglob(".tmp-*"))


def test_gc_and_a_removal_take_its_scores(copy):
    config = copy("averages={a: {bible: 1, speeches: 1}, b: {code_python: 1, seed: 1}}", *SHORT)
    result = steps.eval_forest(config)
    forest = Forest(config.forest_root)
    of = {name: result["models"][name]["sha256"] for name in ("a", "b")}
    assert len(unwritten.notes(forest.root)) == 2
    removal.remove(forest, "speeches", reason="asked for")
    assert not list(forest.paths.scores_of(of["a"])) and list(forest.paths.scores_of(of["b"]))
    assert len(unwritten.notes(forest.root)) == 1
    gc.collect(forest)
    assert not list(forest.paths.scores_of(of["b"])) and not unwritten.notes(forest.root)


def test_compare_has_it_too(copy):
    config = copy("averages={a: {bible: 0.2, seed: 0.8}}", *SHORT)
    found = steps.compare(config)
    mine = next(row for row in found.rows if row.model == "a")
    assert mine.kind == "average" and mine.in_domain.perplexity > 1


BAD = {
    "averages={a: {lwa: 1}}": "no ELM 'lwa'",
    "averages={a: {bible: -1}}": "negative",
    "averages={a: {bible: 0}}": "all weights are 0",
    "averages={a: {bible: nan}}": "wanted a finite number",
    "averages={A b: uniform}": "no valid name",
    "averages={uniform: token}": "stands, and is measured anyway",
    "averages={seed: token}": "the ELM 'seed' stands",
    "averages={a: unifrom}": "choose one of uniform",
    "averages={a: {weights: uniform, scael: 2}}": "did you mean",
    "averages={a: {weights: uniform, name: x}}": "has no effect here",
    "averages={a: {weights: uniform, scale: fit, method: ties}}": "make it with btm average",
    "averages={a: {method: greedy_soup}}": "make it with btm average",
    "averages={a: {weights: uniform, density: much}}": "wanted int or float",
    "averages={a: {weights: token, domain: lwa}}": "lwa",
    "averages={a: {method: slerp, base: seed}}": "takes 1 models",
    "averages={a: {weights: {bible: 1}, domain: bible}}": "leave it out",
    "averages={a: {experts: [bible, 3]}}": "wanted [NAME",
    "averages={a: {layers: {nothing*: {bible: 1}}}}": "no tensor is called",
    "averages={a: {base: lwa, method: ties}}": "no ELM 'lwa'",
    "averages={a: {bible: 1e400}}": "wanted a finite number",
    "averages={a: [1]}": "wanted a word",
    "averages=uniform": "wanted averages=",
}


def test_bad_recipes_are_one_line_and_leave_nothing(copy, capsys):
    config = copy()
    root = Forest(config.forest_root).root
    before = tree(root)
    for word, said in BAD.items():
        for flags in ([], ["--dry-run"]):
            assert main(["eval", *words(config), *SHORT, word, *flags]) == 2, word
            told = capsys.readouterr().err.strip()
            assert said in told and "\n" not in told, (word, told)
    assert tree(root) == before


def test_a_dry_run_says_what_is_made_and_writes_nothing(copy, capsys):
    config = copy()
    root = Forest(config.forest_root).root
    before = tree(root)
    assert main(["eval", *words(config), *SHORT, HALF, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert "half, drawn on 1 shards" in told["what"] and told["tokens"] > 0
    assert tree(root) == before


def test_weights_of_a_removed_elm_are_refused(copy):
    config = copy("averages={a: {bible: 1, speeches: 1}}", *SHORT)
    removal.remove(Forest(config.forest_root), "speeches", reason="asked for")
    with pytest.raises(UserError, match="speeches"):
        steps.eval_forest(config)
