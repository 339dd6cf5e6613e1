"""The comparison of a forest with what stands beside it: figures, marks, cache, picture, and the
end of a run.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from folders import tree

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest
from btm.report import comparison, comparison_picture
from btm.steps import baselines

pytestmark = pytest.mark.slow

TRAINED = {"bible", "code_python", "speeches"}


@pytest.fixture(scope="module")
def words(grown, workspace, tmp_path_factory):
    """The words of a forest beside which its dense LM stands, both grown."""
    root = tmp_path_factory.mktemp("compared") / "forest"
    shutil.copytree(grown[0].forest_root, root)
    words = [*workspace, f"forest={root}", "cluster=debug"]
    config = compose([*words, "baseline=dense"])
    baselines.run(baselines.ready(config))
    return words


@pytest.fixture(scope="module")
def found(words):
    """Its comparison."""
    return steps.compare(compose(words))


@pytest.fixture
def apart(words, tmp_path):
    """The words of a copy of both that a test may change."""
    root = Path(compose(words).forest_root)
    for name in (root.name, f"{root.name}-dense"):
        shutil.copytree(root.with_name(name), tmp_path / name)
    return [*words, f"forest={tmp_path / root.name}"]


def rows(found):
    return {(row.kind, row.model): row for row in found.rows}


def of_kind(found, kind):
    return next(row for row in found.rows if row.kind == kind)


def test_every_row_is_there_with_its_cost(found):
    forest = Forest(found.forest)
    assert [row.kind for row in found.rows] == ["ensemble", "top-1", "average", "seed", "dense"]
    ensemble, top, average, seed, dense = found.rows
    assert dense.model == "forest-dense" and found.reference == "forest-dense"
    assert ensemble.training_tokens == dense.training_tokens == top.training_tokens
    assert average.training_tokens == ensemble.training_tokens
    assert seed.training_tokens == forest["seed"].card.tokens < ensemble.training_tokens
    assert [row.compute_matched for row in found.rows] == [True, True, True, False, True]
    assert [row.experts_run for row in found.rows] == [3, 1, 1, 1, 1]
    one = dense.inference_flops_per_token
    assert [row.inference_flops_per_token / one for row in found.rows] == [3, 1, 1, 1, 1]
    assert any("not compute-matched" in note and note.endswith(": seed") for note in found.notes)


def test_the_figures_are_those_of_eval_with_each_window_anew(words, found):
    config = compose([*words, "ensemble.carry=window", "eval.name=anew"])
    whole = steps.eval_forest(config)["shards"]
    one = steps.eval_forest(replace(config, ensemble=replace(config.ensemble, top_k=1)))["shards"]
    for shard in found.shards:
        entry = whole[f"{shard.domain}/test"]
        assert (shard.tokens, shard.novel) == (entry["tokens"], entry["novel"])
        assert shard.novel == (shard.domain not in TRAINED)
        wanted = {
            "ensemble": entry["ensemble"],
            "top-1": one[f"{shard.domain}/test"]["ensemble"],
            "average": entry["models"]["uniform"],
            "seed": entry["experts"]["seed"],
        }
        for kind, numbers in wanted.items():
            assert of_kind(found, kind).nats_per_token[shard.domain] == pytest.approx(
                numbers["nats_per_token"], rel=1e-6
            ), (kind, shard.domain)


def test_windows_are_begun_anew_whatever_the_bundle_says(words, found):
    assert found.rule["carry"] == "window"
    again = steps.compare(compose([*words, "ensemble.carry=document"]))
    assert [row.nats_per_token for row in again.rows] == [row.nats_per_token for row in found.rows]
    assert "begun anew (ensemble.carry=window)" in comparison.title(found)


def test_means_are_of_perplexities_and_ratios_are_to_the_dense_lm(found):
    dense = of_kind(found, "dense")
    for row in found.rows:
        own = {domain: math.exp(row.nats_per_token[domain]) for domain in TRAINED}
        other = {domain: math.exp(dense.nats_per_token[domain]) for domain in TRAINED}
        assert row.in_domain.perplexity == pytest.approx(sum(own.values()) / 3)
        assert row.in_domain.ratio == pytest.approx(sum(own.values()) / sum(other.values()))
        assert row.in_domain.ahead == sum(own[domain] < other[domain] for domain in TRAINED)
        assert row.novel.domains == 1
        novels = row.nats_per_token["novels"] - dense.nats_per_token["novels"]
        assert row.novel.ratio == pytest.approx(math.exp(novels))
    assert dense.in_domain.ratio == dense.novel.ratio == 1 and dense.in_domain.ahead == 0


def test_a_second_time_it_reads_the_cache_alone(words, found):
    config = compose(words)
    root = Path(config.forest_root)
    first = steps.compare(config)
    before = tree(root) | tree(f"{root}-dense")
    assert steps.compare(config) == first
    assert tree(root) | tree(f"{root}-dense") == before  # and what is the same is not written again
    (root / "evals/forest-compare.png").unlink()
    (root / "evals/forest-compare.json").write_text("[]")
    steps.compare(config)
    assert json.loads((root / "evals/forest-compare.json").read_text())["schema"] == 1
    assert (root / "evals/forest-compare.png").is_file()


def test_what_is_missing_from_the_cache_is_scored(apart, found):
    config = compose(apart)
    for root in (config.forest_root, f"{config.forest_root}-dense"):
        shutil.rmtree(Path(root) / "scores")
    again = steps.compare(config)
    for row, other in zip(again.rows, found.rows, strict=True):
        assert row.nats_per_token == pytest.approx(other.nats_per_token, rel=1e-5)


def test_the_file_holds_all_of_it_and_the_picture_is_one(found):
    file = Path(found.forest) / "evals/forest-compare.json"
    read = comparison.from_json(json.loads(file.read_text()))
    assert replace(read, created=found.created) == found  # other tests may have compared once more
    forest = Forest(found.forest)
    text = json.loads(forest.paths.evaluation(None).read_text())["text"]
    assert all(shard.sha256 == text[shard.domain][shard.split] for shard in read.shards)
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_dense_lm_of_other_tokens_is_never_passed_off(apart):
    root = Path(f"{compose(apart).forest_root}-dense")
    card = json.loads((root / "elms/dense/card.json").read_text())
    (root / "elms/dense/card.json").write_text(
        json.dumps(card | {"tokens": int(card["tokens"] * 1.02)})
    )
    found = steps.compare(compose(apart))
    assert of_kind(found, "dense").compute_matched is False
    assert any("not compute-matched" in note and "forest-dense" in note for note in found.notes)
    row = next(row for row in comparison.summary_rows(found) if row["kind"] == "dense")
    assert row["equal training"] == "NO: 1.02 x"


def test_a_dense_lm_of_other_text_or_contexts_is_told_of(apart, found):
    config = compose(apart)
    told = ("was trained on", "never trained on")
    assert not any(each in note for note in found.notes for each in told)
    card = next(Path(f"{config.forest_root}-dense").glob("elms/*/card.json"))
    values = json.loads(card.read_bytes())
    values["data"]["bible"] = "0" * 64
    values["settings"]["trainer.seq_len"] *= 2
    card.write_text(json.dumps(values))
    notes = steps.compare(config).notes
    assert any("-dense was trained on other text of bible" in note for note in notes)
    length = config.trainer.seq_len
    assert any(f"on contexts of {2 * length} tokens, the forest of {length}" in n for n in notes)
    del values["data"]["bible"]
    card.write_text(json.dumps(values))
    said = "-dense was never trained on bible, and the forest was"
    assert any(said in note for note in steps.compare(config).notes)


def test_without_a_dense_lm_ratios_are_to_the_seed_and_the_remedy_is_said(apart):
    config = compose([*apart, "models=[bible,seed]"])
    shutil.rmtree(f"{config.forest_root}-dense")
    found = steps.compare(config)
    assert (found.reference, found.reference_kind) == ("seed", "seed")
    assert "baseline=dense" in found.notes[0]
    assert rows(found)["ELM", "bible"].in_domain.domains == 3
    assert ("ELM", "seed") not in rows(found) and ("seed", "seed") in rows(found)
    assert "/ seed" in comparison.summary_rows(found)[0]


def test_other_forests_stand_beside_it_if_they_have_its_tokenizer(apart, words):
    other = compose(words).forest_root
    config = compose([*apart, f"against=[{other}]"])
    split = shutil.copytree(config.forest_root, f"{config.forest_root}-random_split")
    (Path(split) / "elms/bible").rename(Path(split) / "elms/random-0")  # as such a baseline has it
    found = steps.compare(config)
    for kind, name in (("forest", other), ("random_split", "forest-random_split")):
        rival = of_kind(found, kind)
        assert rival.nats_per_token == pytest.approx(found.rows[0].nats_per_token, rel=1e-6)
        assert (rival.model, rival.experts_run, rival.compute_matched) == (name, 3, True)
    with pytest.raises(UserError, match="that is the forest itself"):
        steps.compare(compose([*apart, f"against={config.forest_root}"]))
    with pytest.raises(UserError, match="no forest in nowhere"):
        steps.compare(compose([*apart, "against=[nowhere]"]))


def test_a_baseline_that_cannot_be_compared_is_named_and_left_out(apart):
    root = Path(f"{compose(apart).forest_root}-dense")
    facts = json.loads((root / "forest.json").read_text())
    (root / "forest.json").write_text(json.dumps(facts | {"tokenizer_sha256": "0" * 64}))
    found = steps.compare(compose(apart))
    assert [row.kind for row in found.rows] == ["ensemble", "top-1", "average", "seed"]
    assert "is left out" in found.notes[0] and "another tokenizer" in found.notes[0]
    shutil.rmtree(root / "elms")
    (root / "forest.json").write_text(json.dumps(facts))
    assert "has no ELM yet" in steps.compare(compose(apart)).notes[0]


def test_of_a_dense_forest_there_is_one_model_and_no_ensemble(words):
    found = steps.compare(compose([*words, f"forest={compose(words).forest_root}-dense"]))
    assert [row.kind for row in found.rows] == ["ELM"]
    assert found.rows[0].in_domain.ratio == 1


def test_top_1_chooses_by_a_fitted_prior_also_where_the_ensemble_has_none(words):
    assert steps.top_1(compose([*words, "ensemble=uniform"]).ensemble).prior == "cached"
    assert steps.top_1(compose([*words, "ensemble=router"]).ensemble).rule == "bayes"
    assert steps.top_1(compose(words).ensemble).prior == "token"


def test_nothing_is_chosen_on_what_is_measured(words):
    with pytest.raises(UserError, match=r"own data: give another eval\.split"):
        steps.compare(compose([*words, "ensemble=uniform", "eval.split=valid"]))


def test_the_verb_prints_tables_or_json_and_dry_run_writes_nothing(words, found, capsys):
    root = Path(found.forest)
    assert main.main(["compare", *words]) == 0
    said = capsys.readouterr().out
    assert (
        "ensemble of 3" in said and "forest-dense" in said and "ahead on" in said and "NO: " in said
    )
    assert "0 of 3" in said and f"{root / 'evals/forest-compare.png'}" in said
    assert main.main(["compare", *words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["schema"] == 1 and {row["kind"] for row in values["rows"]} >= {
        "ensemble",
        "dense",
        "seed",
    }
    before = tree(root)
    assert main.main(["compare", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert (
        "dense in" in said
        and "average in" in said
        and "ensemble of 3 and top-1 on 4 shards" in said
    )
    assert tree(root) == before
    assert main.main(["compare", *words, "baseline=dense"]) == 2
    assert "by itself" in capsys.readouterr().err


def test_a_run_ends_with_the_comparison_of_its_forest_also_that_of_a_baseline(words, capsys):
    assert main.main(["run", *words]) == 0
    said = capsys.readouterr().out
    assert said.index("perplexity by shard, gated") < said.index(
        "/forest beside forest-dense: mean perplexity"
    )
    assert main.main(["run", *words, "baseline=dense"]) == 0
    assert "/forest beside forest-dense: mean perplexity" in capsys.readouterr().out
    assert main.main(["run", *words, "baseline=dense", "models=[uniform,bible]", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert "bible" in {row["model"] for row in values["comparison"]["rows"]}
    assert values["forest"].endswith("forest-dense")
    assert values["comparison"]["reference"] == "forest-dense"


def test_the_picture_shows_the_best_of_many_and_never_the_reference_as_a_mark(found, tmp_path):
    average = of_kind(found, "average")
    many = [
        replace(average, model=f"average-{i}", in_domain=replace(average.in_domain, ratio=1 + i))
        for i in range(20)
    ]
    crowded = replace(found, rows=[*found.rows[:2], *many, *found.rows[3:]])
    shown = comparison_picture.shown(crowded)
    assert [row.kind for row in shown] == ["ensemble", "top-1", *["average"] * 6, "seed"]
    assert shown[2].model == "average-0" and shown[7].model == "average-5"
    assert (
        comparison_picture.draw(crowded, tmp_path / "crowded.png")
        .read_bytes()
        .startswith(b"\x89PNG")
    )
    novel_only = replace(found, shards=[shard for shard in found.shards if shard.novel])
    novel_only = replace(novel_only, rows=[replace(row, in_domain=None) for row in found.rows])
    assert comparison_picture.draw(novel_only, tmp_path / "novel.png").stat().st_size > 0


def test_an_ensemble_that_reads_on_over_documents_is_told_of(words):
    notes = steps.compare(compose([*words, "ensemble=updating"])).notes
    assert any("has read more than the other rows" in note for note in notes)
    assert not any("has read more" in note for note in steps.compare(compose(words)).notes)
