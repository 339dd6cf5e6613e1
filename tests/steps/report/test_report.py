"""The facts of a report: they are those of the files that they are read from."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from btm.errors import UserError
from btm.forest import Forest, removal
from btm.forest.paths import Paths
from btm.forest.readers import ReaderCard
from btm.report import benchmarks, comparison
from btm.steps.report import evaluations, gather, holdings
from btm.steps.report.gather import to_json
from btm.steps.report.samples import samples


def asked(config, **words):
    return dataclasses.replace(config, **words)


@pytest.fixture(scope="module")
def result(grown):
    return json.loads(Forest(grown[0].forest_root).paths.evaluation(None).read_text())


def test_samples_are_weighed_as_the_evaluation_weighed_them(grown, result):
    found = samples(grown[0], result, tokens=1 << 20)
    assert {sample.domain for sample in found} == result["shards"].keys()
    for sample in found:
        shard = result["shards"][sample.domain]
        assert np.mean(sample.nats) == pytest.approx(shard["ensemble"]["nats_per_token"], abs=1e-3)
        means = dict(zip(sample.experts, np.mean(sample.weights, axis=0), strict=True))
        for name, mean in means.items():
            assert mean == pytest.approx(shard["mean_posterior"][name], abs=2e-3)
        alone = dict(zip(sample.experts, np.mean(sample.expert_nats, axis=0), strict=True))
        for name, nats in alone.items():
            assert nats == pytest.approx(shard["experts"][name]["nats_per_token"], abs=1e-3)


def test_without_scores_or_text_the_report_says_so(grown, tmp_path):
    root = tmp_path / "forest"
    shutil.copytree(grown[0].forest_root, root)
    shutil.rmtree(root / "scores")
    facts = gather(asked(grown[0], forest=str(root)))
    assert not facts.samples and "no scores of" in facts.absent["samples"]
    assert facts.evaluation is not None
    shutil.rmtree(root / "evals")
    facts = gather(asked(grown[0], forest=str(root)))
    assert facts.evaluation is facts.ways is None
    assert f"btm eval forest={root}" in facts.absent["evaluation"]
    assert {relative.name for relative in facts.lineage} >= {"seed", "bible"}


def test_what_is_damaged_is_said_and_the_rest_is_shown(grown, result, tmp_path):
    root = tmp_path / "forest"
    shutil.copytree(grown[0].forest_root, root)
    config = asked(grown[0], forest=str(root))
    file = Forest(root).paths.evaluation(None)
    shard = next(iter(result["shards"]))
    endless = json.loads(json.dumps(result))
    endless["shards"][shard]["ensemble"]["perplexity"] = float("inf")
    for text, said in ((json.dumps(endless), "no number"), ("{", "not readable")):
        file.write_text(text)
        facts = gather(config)
        assert facts.evaluation is None and said in facts.absent["evaluation"]
        assert facts.lineage and facts.curves
    chosen = dataclasses.replace(config.eval, name=file.stem)
    with pytest.raises(UserError, match="not readable"):
        gather(asked(config, eval=chosen))


def test_json_has_null_for_what_is_not_finite(grown):
    facts = gather(grown[0])
    curve = dataclasses.replace(facts.curves[0], rates=[float("nan"), 1.0])
    assert to_json(dataclasses.replace(facts, curves=[curve]))["curves"][0]["rates"] == [None, 1.0]


def test_an_evaluation_that_is_not_there_is_named_with_those_that_are(grown):
    chosen = dataclasses.replace(grown[0].eval, name="nowhere")
    with pytest.raises(UserError, match=r"no evaluation 'nowhere'.*have: forest"):
        gather(asked(grown[0], eval=chosen))


def test_the_best_single_expert_is_the_best_of_each_domain(grown, result):
    ways = evaluations.ways(Forest(grown[0].forest_root).paths, None, result)
    best = next(row for row in ways.rows if row.model == "best single expert")
    shards = [shard for shard in result["shards"].values() if not shard["novel"]]
    wanted = np.mean(
        [min(shard["experts"][name]["perplexity"] for name in shard["prior"]) for shard in shards]
    )
    assert best.ppl == pytest.approx(wanted)
    assert ways.rows[0].matched and ways.reference == "seed"


def test_a_comparison_comes_first_and_keeps_its_reference(grown, result, tmp_path):
    shards = [
        comparison.Shard(*name.split("/"), shard["novel"], shard["tokens"])
        for name, shard in result["shards"].items()
    ]
    nats = {s.domain: 2.0 for s in shards}
    measured = [
        comparison.Measured("ensemble of 3", "ensemble", 3, 100, 1e9, 3e5, nats),
        comparison.Measured("dense", "dense", 1, 100, 1e9, 1e5, dict.fromkeys(nats, 2.5)),
    ]
    made = comparison.Comparison(
        "f",
        "s",
        result["window"],
        {},
        {},
        shards,
        comparison.rows_of(measured, shards),
        "dense",
        "dense",
    )
    root = tmp_path / "forest"
    (root / "evals").mkdir(parents=True)
    paths = Paths(root)
    paths.comparison(None).write_text(json.dumps(made.to_json()))
    found = evaluations.ways(paths, None, result)
    assert [row.model for row in found.rows] == ["ensemble of 3", "dense", "best single expert"]
    assert found.rows[0].ppl == pytest.approx(np.exp(2)) and found.reference == "dense"
    other = result | {"window": result["window"] + 1}  # of other windows nothing is added
    assert len(evaluations.ways(paths, None, other).rows) == 2


def test_a_long_training_is_thinned_out_and_its_ends_stay(tmp_path):
    file = tmp_path / "metrics.jsonl"
    row = {"steps": 1000, "lr": 1e-3, "tokens_per_second": 1234.567, "grad_norm": 1}
    lines = [row | {"step": n, "tokens": 10 * n, "loss": 5 - n / 1000} for n in range(1, 1001)]
    lines[7]["loss"] = float("nan")
    lines[499]["valid_nats"] = 3.5
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "half a li")
    curve = holdings.curve("law", "ELM", file)
    assert len(curve.steps) <= 82 and curve.planned == 1000
    assert (curve.steps[0], curve.steps[-1]) == (1, 1000)
    assert curve.losses[-1] == 4.0 and 3.5 in curve.valid
    assert holdings.curve("law", "ELM", tmp_path / "none") is None


def test_folders_are_measured_as_they_stand(grown):
    root = Forest(grown[0].forest_root).root
    found = {holding.folder: holding for holding in holdings.disk(root)}
    files = [path for path in (root / "elms").rglob("*") if path.is_file()]
    assert found["elms"].files == len(files)
    assert found["elms"].bytes == sum(path.stat().st_size for path in files)


def compared(result, **words):
    """A comparison of what `result` evaluated."""
    shards = [
        comparison.Shard(d, s, shard["novel"], shard["tokens"], result["text"][d][s])
        for name, shard in result["shards"].items()
        for d, s in [name.split("/")]
    ]
    nats = {shard.domain: 2.0 for shard in shards}
    rows = [comparison.Measured("ensemble of 3", "ensemble", 3, 100, 1e9, 3e5, nats)]
    elms = {name: result["elms"][name] for name in next(iter(result["shards"].values()))["prior"]}
    made = comparison.Comparison(
        "f", "s", result["window"], {}, elms, shards, comparison.rows_of(rows, shards), "f", "f"
    )
    return dataclasses.replace(made, **words).to_json()


def test_results_of_models_that_are_no_more_are_named(grown, result, copy):
    config = copy()
    forest = Forest(config.forest_root)
    paths, sha256 = forest.paths, {elm.name: elm.card.sha256 for elm in forest.elms()}
    paths.comparison(None).write_text(json.dumps(compared(result)))
    for name, weights in (("qa", "new"), ("nli", "same"), ("gone", "")):
        card = ReaderCard(name, weights, "expert", {"bible": sha256["bible"]}, {})
        file = paths.reader(name).card
        if name != "gone":
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(card.to_json()))
        measured = {"reader": name, "split": "test", "questions": 1, "values": {"f1": [1, 1, 1]}}
        paths.reading(name, "test").write_text(json.dumps(measured | {"sha256": "same"}))
    row = benchmarks.Measured(
        "bible", "ELM", {"bible": sha256["bible"]}, {}, None, None, "t", "x", 1, 1, {}
    )
    rows = benchmarks.Benchmarks("f", [row], "").to_json()
    paths.benchmarks(None).write_text(json.dumps(rows))
    as_it_stands = gather(config).outdated
    assert as_it_stands.keys() == {"readers"}  # two of which are not those that were measured
    assert len(as_it_stands["readers"]) == 2
    removal.remove(forest, "bible")
    found = gather(config).outdated
    gone = "measured with bible, which was removed since. btm"
    for part, verb in (("evaluation", "eval"), ("ways", "compare"), ("benchmarks", "bench")):
        [line] = found[part]
        assert f"{gone} {verb} forest={forest.root}" in line
    of = {line.partition("-")[2].partition("-")[0]: line for line in found["readers"]}
    assert "the reader gone, which stands no more" in of["gone"]
    assert "the reader qa before it was trained anew" in of["qa"]
    assert "the reader nli with bible, which was removed since" in of["nli"]


def test_what_joined_was_made_anew_or_is_other_text_is_named(grown, result, copy):
    config = copy()
    paths = Paths(config.forest_root)
    changed = json.loads(json.dumps(result))
    elms = changed["elms"]
    del elms["speeches"]
    elms["bible"] = "0" * 64
    elms["law"] = "1" * 64
    shard = next(iter(result["shards"]))
    domain, _, split = shard.partition("/")
    changed["text"][domain][split] = "2" * 64
    paths.evaluation(None).write_text(json.dumps(changed))
    [line] = gather(config).outdated["evaluation"]
    for said in (
        "with bible, which was made anew since",
        "with law, which was deleted since",
        "without speeches, which joined since",
        f"on other text of {shard} than there is now",
    ):
        assert said in line
    paths.evaluation(None).write_text(json.dumps(result))
    shards = [
        comparison.Shard(domain, split, False, 1, "2" * 64),
        comparison.Shard("older", "test", False, 1),  # no sha256: not known
    ]
    paths.comparison(None).write_text(json.dumps(compared(result, shards=shards)))
    found = gather(config)
    [line] = found.outdated["ways"]
    assert f"on other text of {shard} than there is now" in line and "older" not in line
    assert [row.model for row in found.ways.rows] == ["ensemble of 3"]  # no row of other text
    assert found.outdated.keys() == {"ways"}
