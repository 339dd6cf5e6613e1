"""The average that is made without a word on how: token weights of all training domains, a scale
fitted on valid.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import tree
from safetensors.torch import load_file

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.data.documents import read
from btm.errors import UserError
from btm.forest import Forest, verify
from btm.forest.card import Card
from btm.models import causal_lm
from btm.report import Reporter
from btm.steps import recipe


@pytest.mark.slow
def test_without_a_word_it_is_fitted_on_all_training_domains(copy):
    config = copy("average.method=null")
    path = steps.average(config)
    card = Card.read(path / "card.json")
    assert path.name == "fitted"
    assert card.domains == ["bible", "code_python", "speeches"]
    assert card.recipe["method"] == "task_arithmetic"
    assert card.recipe.get("scale", 1.0) in recipe.SCALES
    assert "seed" in card.parents


@pytest.mark.slow
def test_the_scale_is_the_best_of_those_tried(copy, capsys):
    config = copy("average.method=null")
    words = [f"forest={config.forest_root}", f"data.out={config.data.out}", "average.method=null"]
    assert main(["average", *words]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "scale" in line]
    tried = {
        float(line.split("scale ")[1].split(":")[0]): float(line.split(": ")[2].split()[0])
        for line in said
    }
    assert list(tried) == list(recipe.SCALES)
    best = min(tried, key=tried.get)
    card = json.loads((steps.average(config) / "card.json").read_text())
    assert card["recipe"].get("scale", 1.0) == best


@pytest.mark.slow
def test_a_cycle_ends_with_it(copy):
    config = copy("average.method=null")
    result = steps.finish(config)
    assert set(result["models"]) == {"fitted", "uniform"}


@pytest.mark.slow
def test_the_same_average_is_not_fitted_again(copy, monkeypatch):
    config = copy("average.method=null")
    path = steps.average(config)
    before = (path / "card.json").stat().st_mtime_ns
    monkeypatch.setattr(causal_lm, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    assert steps.average(config) == path
    assert (path / "card.json").stat().st_mtime_ns == before


def test_a_scale_that_was_fitted_on_other_text_is_fitted_again(copy, workspace, capsys):
    root = copy().forest_root
    words = [*workspace, f"forest={root}", "average.method=task_arithmetic", "average.scale=fit"]

    def fitted(name, domain, *more):
        words_of = [f"average.name={name}", f"domain={domain}", "weights={bible: 1}", *more]
        assert main(["average", *words, *words_of]) == 0
        card = Card.read(Path(root) / "averages" / name / "card.json")
        return card, capsys.readouterr().err

    fitted("deploy", "bible")
    card, said = fitted("deploy", "novels")
    fresh, _ = fitted("fresh", "novels")
    assert (card.sha256, card.measured) == (fresh.sha256, fresh.measured)
    assert set(card.measured) == {"novels"} and "novels/valid (" in card.estimator
    assert "deploy is of other settings: how it was found was scale fitted on the first 512" in said
    assert "scale" not in fitted("deploy", "novels")[1]  # it stands
    for more in ("trainer.valid_tokens=256", "score.window=16"):
        assert "scale 0.25" in fitted("deploy", "novels", more)[1], more


@pytest.fixture
def repacked(copy, texts, tmp_path):
    """A configuration of a copy of forest and suite, and a function that packs valid anew."""
    names = ("average.name=deploy", "moe.name=deploy", "student=deploy")
    config = copy(*names, "weights={bible: 1}", "moe.tokens=256", "distil.steps=1")
    folder = shutil.copytree(texts, tmp_path / "texts")
    out = shutil.copytree(config.data.out, tmp_path / "data")
    config = replace(config, data=replace(config.data, root=str(folder), out=str(out)))

    def pack():
        file = folder / "bible/valid.jsonl.zst"
        rows = [json.dumps({"text": row}) + "\n" for row in read(file, "text")]
        file.unlink()
        file.with_suffix("").write_text("".join(rows[1:]))
        steps.prepare(config)

    return config, pack


@pytest.mark.parametrize("make", [steps.average, steps.moe, steps.distil])
def test_losses_of_other_text_are_measured_again_and_the_weights_stay(make, repacked):
    config, pack = repacked
    if make is steps.distil:  # one of which nothing is fitted on valid text: else it is refused
        config.distil.weight, config.distil.init = 0.0, "uniform"
    path, forest, lines = make(config), Forest(config.forest_root), []
    reporter = Reporter()
    reporter.line = lines.append
    file = path / "card.json"
    old, times = Card.read(file), (path / "model.safetensors").stat().st_mtime_ns
    pack()
    config.average.measure = make is steps.distil  # which is measured always
    make(config, reporter)
    shards = {d: steps.open_suite(config).shard(d, "valid").sha256 for d in old.measured}
    said = next(line for line in lines if "its losses are of other text" in line)
    was, now = old.measured["bible"].shard, shards["bible"]
    assert f"valid of bible was {was[:12]}, now {now[:12]}: " in said and was != now
    if make is not steps.distil:
        assert said.endswith("they stay as they are") and Card.read(file) == old
        config.average.measure = True
        make(config, reporter)
    new = Card.read(file)
    assert lines.pop(0) and {d: part.shard for d, part in new.measured.items()} == shards
    assert new.measured["bible"].nats != old.measured["bible"].nats
    assert replace(new, measured=old.measured, valid_nats=old.valid_nats) == old
    assert (path / "model.safetensors").stat().st_mtime_ns == times
    assert now[:12] in (path / "README.md").read_text()
    place = path.relative_to(forest.root).as_posix()
    assert not verify.verify(forest.root, full=True, only=place)
    lines.clear()
    make(config, reporter)
    assert not any("other text" in line for line in lines)
    known = new.to_json()
    known["measured"]["bible"].pop("shard")  # a card from before it was kept
    assert Card.from_json(known, file).measured["bible"].shard == ""


def test_token_weights_need_no_domain(copy):
    config = copy("weights=token", "average.name=all", "average.method=null")
    card = Card.read(steps.average(config) / "card.json")
    assert sum(parent.weight for parent in card.parents.values()) == pytest.approx(1.0)
    assert not card.recipe  # linear


def test_fit_is_refused_where_there_is_no_scale(copy):
    with pytest.raises(
        UserError, match=r"average\.scale=fit: wanted a number, or fit under one of task_arithmetic"
    ):
        copy("average.method=linear", "average.scale=fit")
    with pytest.raises(UserError, match=r"average\.scale=fitted"):
        compose(["average.scale=fitted"])


def test_a_task_is_negated(copy, workspace, tmp_path, capsys):
    """weights={bible: -1} under task arithmetic: what the expert learned is taken from the seed."""
    copy()
    root = tmp_path / "forest"
    words = [*workspace, f"forest={root}", "average.name=less", "weights={bible: -0.5}"]
    assert main(["average", *words, "average.method=task_arithmetic"]) == 0
    assert main(["verify", f"forest={root}", "average=less", "--full"]) == 0
    card = Card.read(root / "averages/less/card.json")
    assert card.parents["bible"].raw == -0.5
    assert {name: parent.weight for name, parent in card.parents.items()} == {
        "bible": 0.5,
        "seed": 0.5,
    }
    less, seed, bible = (
        load_file(root / place / "model.safetensors")
        for place in ("averages/less", "elms/seed", "elms/bible")
    )
    for name, tensor in less.items():
        torch.testing.assert_close(tensor, seed[name] - 0.5 * (bible[name] - seed[name]))
    # It is worse on the task that was taken away than the seed is.
    assert card.measured["bible"].nats > card.measured["bible"].seeds["seed"]
    capsys.readouterr()
    assert main(["export", f"forest={root}", "average=less", "format=mergekit"]) == 0
    assert "{weight: -0.5}" in capsys.readouterr().out.replace('"', "")
    before = (root / "averages/less/card.json").read_bytes()
    assert main(["average", *words, "average.method=task_arithmetic"]) == 0
    assert (root / "averages/less/card.json").read_bytes() == before


@pytest.mark.parametrize("method", ["linear", "ties", "fisher", "model_stock"])
@pytest.mark.parametrize(
    "words", [["weights={bible: 1, speeches: -1}"], ["average.layers={*.mlp.*: {bible: -1}}"]]
)
def test_a_negative_weight_is_refused_where_it_means_nothing(
    words, method, copy, workspace, tmp_path, capsys
):
    copy()
    words = [*workspace, f"forest={tmp_path / 'forest'}", f"average.method={method}", *words]
    before = tree(tmp_path / "forest")
    assert main(["average", *words]) == 2
    said = capsys.readouterr().err
    assert f"average.method={method} takes none" in said and said.count("\n") == 1
    assert "task_arithmetic, dare_linear, dare_ties, breadcrumbs" in said
    assert tree(tmp_path / "forest") == before


def test_branches_take_no_negative_weights(copy, workspace, tmp_path, capsys):
    """A branch is a weighted average of its parents whatever average.method says."""
    copy()
    words = [*workspace, f"forest={tmp_path / 'forest'}", "weights={bible: -1}"]
    words += ["average.method=task_arithmetic", "expert=new", "domain=bible"]
    assert main(["branch", *words]) == 2
    assert (
        "weights.bible=-1: wanted a finite number that is not negative" in capsys.readouterr().err
    )
