"""Models that are loaded in int8 or 16 bits: their scores are others, and are never passed off as
float32's; what is measured of planted outliers.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import tree

from bench.outliers import plant_in_forest
from btm import steps
from btm.cli import main
from btm.config.load import LoadConfig
from btm.errors import UserError
from btm.forest import Forest, gc, removal
from btm.forest.suites import open_suite
from btm.models import causal_lm
from btm.report import quiet
from btm.steps import score_cache
from btm.steps.evaluate import evaluation_stands

pytest.importorskip("bitsandbytes")

WAYS = {
    "int8": LoadConfig("int8"),
    "bf16": LoadConfig(dtype="bf16"),
    "int8-bf16": LoadConfig("int8", "bf16"),
}
SHORT = ["eval.domains=[bible,speeches]", "eval.name=short"]


@pytest.fixture
def words(copy, workspace, tmp_path):
    """Words of commands on a copy of the forest."""
    copy()
    return [*workspace, f"forest={tmp_path / 'forest'}"]


def run(capsys, *words):
    code = main.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def scored(config, name="bible"):
    forest, suite = Forest(config.forest_root), open_suite(config)
    elm, shard = forest[name], suite.shard("bible", "test")
    score_cache.score_missing(config, forest, elm.path, elm.card.sha256, [shard], quiet)
    scores = score_cache.scores_of(config, forest)
    return scores.path(shard, elm.card.sha256), scores.read(shard, elm.card.sha256)


def test_scores_lie_under_names_of_their_own(copy):
    config = copy()
    plain, wanted = scored(config)
    before = tree(config.forest_root)
    found = {}
    for word, load in WAYS.items():
        path, found[word] = scored(replace(config, load=load))
        assert path == plain.with_name(f"{plain.stem}-{word}.npy")
        difference = np.abs(found[word] - wanted)
        assert 0 < difference.max() < 0.2 and difference.mean() < 0.02
    assert tree(config.forest_root).items() > before.items()  # and float32's were left alone
    assert not np.array_equal(found["int8"], found["int8-bf16"])


def test_they_do_not_depend_on_the_batch(copy):
    config = replace(copy(), load=LoadConfig("int8"))
    path, first = scored(config)
    first = np.array(first)
    path.unlink()
    _, again = scored(replace(config, score=replace(config.score, batch_size=3)))
    np.testing.assert_allclose(again, first, atol=1e-4)


def test_an_evaluation_says_how_its_models_were_loaded(words, capsys, tmp_path):
    plain = [*words, *SHORT]
    in_int8 = [*plain, "load.quantization=int8"]
    assert run(capsys, "eval", *plain, "--json")[0] == 0
    file = tmp_path / "forest/evals/short.json"
    first = json.loads(file.read_text())
    assert "load" not in first  # as it was before there was a choice
    config, quantised = (main.compose(each, "eval") for each in (plain, in_int8))
    assert evaluation_stands(config) and not evaluation_stands(quantised)
    code, out, _ = run(capsys, "eval", *in_int8, "--dry-run")
    assert code == 0 and "models with load.quantization=int8" in " ".join(out.split())
    assert json.loads(file.read_text()) == first
    code, out, err = run(capsys, "eval", *in_int8)
    assert code == 0 and "models with load.quantization=int8" in " ".join(out.split())
    assert "int8: its linears take" in err
    second = json.loads(file.read_text())
    assert second["load"] == {"quantization": "int8", "dtype": "fp32"}
    assert evaluation_stands(quantised) and not evaluation_stands(config)
    of = [each["shards"]["bible/test"]["ensemble"]["nats_per_token"] for each in (first, second)]
    assert of[0] != of[1] and of[0] == pytest.approx(of[1], abs=2e-3)
    models = [each["shards"]["bible/test"]["models"] for each in (first, second)]
    assert models[0] != models[1] and models[0].keys() == models[1].keys()


def test_a_comparison_says_so_too(words, capsys, tmp_path):
    file = tmp_path / "forest/evals/short-compare.json"
    assert run(capsys, "compare", *words, *SHORT, "--json")[0] == 0
    first = json.loads(file.read_text())
    assert "load" not in first
    code, out, _ = run(capsys, "compare", *words, *SHORT, "load.dtype=bf16", "--dry-run")
    assert code == 0 and "models with load.dtype=bf16" in " ".join(out.split())
    assert run(capsys, "compare", *words, *SHORT, "load.dtype=bf16")[0] == 0
    second = json.loads(file.read_text())
    assert second["load"] == {"quantization": "none", "dtype": "bf16"}
    assert "every row is of models loaded with load.dtype=bf16" in second["notes"]
    assert [row["nats_per_token"] for row in first["rows"]] != [
        row["nats_per_token"] for row in second["rows"]
    ]


def test_what_stands_on_cards_is_measured_in_float32(copy):
    config = replace(copy("average.name=again"), load=LoadConfig("int8"))
    shutil.rmtree(Path(config.forest_root) / "scores")
    steps.average(config)
    files = [file.name for file in Forest(config.forest_root).paths.scores_of()]
    assert files and not [name for name in files if "int8" in name]


def test_gc_and_removal_know_them(copy):
    config = copy()
    forest = Forest(config.forest_root)
    path, _ = scored(replace(config, load=LoadConfig("int8")), "speeches")
    assert not [waste for waste in gc.find(forest) if waste.path == path]
    alien = path.with_name(f"{'0' * 64}-int8.npy")
    shutil.copyfile(path, alien)
    assert alien in {waste.path for waste in gc.find(forest)}
    removal.remove(forest, "speeches")
    assert not path.exists() and alien.exists()


def test_the_ensemble_writes_with_members_in_int8(words, capsys):
    asked = ["prompt=In the", "generate.temperature=0", "generate.tokens=8", "domain=bible"]
    code, out, err = run(capsys, "generate", *words, *asked, "load.quantization=int8", "--json")
    assert code == 0
    made = json.loads(out)
    assert made["load"] == {"quantization": "int8", "dtype": "fp32"}
    assert err.count("int8: its linears take") == 2 * len(
        made["experts"]
    )  # for its prior, to write
    code, out, _ = run(capsys, "generate", *words, *asked, "--json")
    assert code == 0
    plain = json.loads(out)
    assert "load" not in plain
    assert made["experts"] == pytest.approx(plain["experts"], abs=0.05)
    assert made["experts"] != plain["experts"]


def test_a_folder_from_outside_is_loaded_so_too(words, copy, capsys, tmp_path):
    config = copy()
    folder = tmp_path / "outside"
    shutil.copytree(Forest(config.forest_root)["bible"].path, folder)
    (folder / "card.json").unlink()
    asked = [*words, *SHORT, f"models=[{folder}]", "load.quantization=int8"]
    code, out, err = run(capsys, "eval", *asked, "--json")
    assert code == 0, err
    entry = json.loads(out)["shards"]["bible/test"]
    theirs = next(row for name, row in entry["models"].items() if "outside" in name)
    assert theirs["nats_per_token"] == entry["experts"]["bible"]["nats_per_token"]


@pytest.fixture(scope="module")
def planted(grown, tmp_path_factory):
    """The configuration of a copy of the forest whose ELMs have outliers in every norm."""
    root = tmp_path_factory.mktemp("planted") / "forest"
    shutil.copytree(grown[0].forest_root, root)
    for folder in ("scores", "averages", "evals"):
        shutil.rmtree(root / folder)
    plant_in_forest(root)
    return replace(grown[0], forest=str(root))


def test_planted_outliers_cost_the_experts_and_the_ensemble_next_to_nothing(planted):
    plain, quantised = (
        steps.eval_forest(replace(planted, load=load))["shards"]
        for load in (LoadConfig(), LoadConfig("int8"))
    )
    for shard, entry in plain.items():
        other = quantised[shard]
        found = {"ensemble": (entry["ensemble"], other["ensemble"])}
        found |= {name: (row, other["experts"][name]) for name, row in entry["experts"].items()}
        for name, (first, second) in found.items():
            off = second["nats_per_token"] - first["nats_per_token"]
            assert abs(off) <= 1e-3, (shard, name)
            assert off != 0


REFUSED = {
    "load.quantization=int4": "load.quantization='int4': choose one of none, int8",
    "load.quantization=null": "load.quantization",
    "load.dtype=float16": "load.dtype='float16': choose one of fp32, bf16, fp16",
    "load.bits=8": "no key 'load.bits'",
    "load=int8": "load",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_value_that_is_none(words, capsys, tmp_path, word):
    before = tree(tmp_path)
    code, _, err = run(capsys, "score", *words, word)
    assert code == 2 and err.count("\n") == 1
    assert REFUSED[word] in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", ["run", "average", "train", "mix", "moe", "distil", "export"])
def test_other_verbs_do_not_read_it(words, capsys, verb):
    code, _, err = run(capsys, verb, *words, "load.dtype=bf16")
    assert code == 2
    assert f"btm {verb} does not read load.dtype=bf16: it is a key of score, eval" in err


@pytest.mark.parametrize("verb", ["score", "eval", "compare", "generate"])
def test_a_device_without_int8_is_told_before_anything(words, capsys, verb):
    asked = [*words, "load.quantization=int8", "trainer.device=mps", "--dry-run"]
    code, _, err = run(capsys, verb, *asked, *(["prompt=x"] if verb == "generate" else []))
    assert code == 2
    assert "trainer.device=mps does not multiply int8; use trainer.device=cpu or cuda" in err


def test_a_model_of_which_a_weight_is_no_number(copy):
    config = replace(copy(), load=LoadConfig("int8"))
    forest = Forest(config.forest_root)
    model = causal_lm.load_model(forest["bible"].path)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    causal_lm.write(forest["bible"].path, model, "float32")
    with pytest.raises(UserError, match="a weight is NaN or infinite"):
        scored(config)
    assert not list(forest.paths.scores.rglob("*-int8.npy"))
