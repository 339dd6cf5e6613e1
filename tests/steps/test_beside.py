"""Averages, models of other forests and folders as rows of an evaluation: numbers, cache, tables
and warnings.
"""

import json
import math
import shutil

import pytest
import torch
from interop.models import make_folder

from btm import steps
from btm.cli import main
from btm.errors import UserError
from btm.forest import Forest, publish
from btm.forest.suites import open_suite
from btm.models import causal_lm
from btm.report.tables import ledger_rows, model_rows


def perplexity(config, folder, domain):
    """That of a model on the first tokens of a domain's test split, window by window, without any
    cache.
    """
    shard = open_suite(config).shard(domain, "test")
    tokens, _ = shard.head(config.score.max_tokens)
    ids = torch.from_numpy(shard.tokens[:tokens].astype("int64"))
    model, nats = causal_lm.load_model(folder, dtype=torch.float32), 0.0
    eos = torch.tensor([open_suite(config).eos])
    with torch.no_grad():
        for start in range(0, tokens, config.window):
            targets = ids[start : start + config.window]
            before = ids[start - 1 : start] if start else eos
            inputs = torch.cat([before, targets[:-1]])
            nats -= float(causal_lm.token_logp(model, inputs[None], targets[None]).double().sum())
    return math.exp(nats / tokens)


def test_the_average_of_a_run_is_a_row_of_its_evaluation(grown, forest):
    config, result = grown
    average = forest.root / "averages/uniform"
    assert result["models"]["uniform"]["kind"] == "average"
    for domain in ("bible", "novels"):
        found = result["shards"][f"{domain}/test"]["models"]["uniform"]["perplexity"]
        assert found == pytest.approx(perplexity(config, average, domain), rel=1e-4)
        assert "uniform" not in result["shards"][f"{domain}/test"]["experts"]
    costs = result["ledger"]["models"]["uniform"]
    assert costs["training"] == result["ledger"]["ensemble"]["training"]
    assert (
        costs["inference_flops_per_token"]
        == result["ledger"]["elms"]["bible"]["inference_flops_per_token"]
    )


def test_models_names_another_forest_and_a_folder(copy, grown, forest, tmp_path):
    folder = make_folder(tmp_path / "law-lm", forest.tokenizer, "gpt2", vocab_size=512)
    named = [f"{forest.root}:speeches", str(folder)]
    config = copy(
        f"models=[{named[0]},{named[1]}]", "eval.name=more", "eval.domains=[bible,novels]"
    )
    result = steps.eval_forest(config)
    assert list(result["models"]) == ["uniform", *named]
    row = result["shards"]["bible/test"]["models"]
    assert row[named[0]] == grown[1]["shards"]["bible/test"]["experts"]["speeches"]
    assert row[named[1]]["perplexity"] == pytest.approx(
        perplexity(config, folder, "bible"), rel=1e-4
    )
    assert result["ledger"]["models"][named[1]]["training"] is None
    assert (
        result["shards"]["bible/test"]["ensemble"] == grown[1]["shards"]["bible/test"]["ensemble"]
    )
    table = {line["model"]: line for line in model_rows(result)}
    assert set(table) == {"ensemble", "seed", "uniform", *named}
    assert table[named[1]]["trained ppl"] == pytest.approx(row[named[1]]["perplexity"])
    unknown = next(line for line in ledger_rows(result) if line["model"] == named[1])
    assert unknown["training tokens"] is None and unknown["training FLOPs"] is None
    assert (Forest(config.forest_root).root / "evals/more.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Forest(config.forest_root).root.glob(".tmp-*"))


def test_a_folder_is_checked_as_an_import_is_before_it_is_loaded(copy, forest, tmp_path):
    folder = make_folder(tmp_path / "law-lm", forest.tokenizer, vocab_size=16)
    with pytest.raises(UserError, match=r"law-lm has embeddings for 16 tokens"):
        steps.eval_forest(copy(f"models=[{folder}]", "eval.domains=[bible]"))


def test_score_takes_averages_by_name(copy):
    config = copy("score.experts=[uniform,bible]", "score.splits=[valid]", "score.domains=[novels]")
    shutil.rmtree(Forest(config.forest_root).root / "scores")
    assert len(steps.score(config)) == 2
    assert steps.score(config) == []
    config.score.experts = ["unifrom"]
    with pytest.raises(UserError, match="did you mean 'uniform'"):
        steps.score(config)


def test_an_average_no_better_than_the_seed_is_named(copy, capsys):
    config = copy("eval.domains=[bible,novels]")
    forest = Forest(config.forest_root)
    publish.average(forest, "same", {"seed": 1})
    publish.average(forest, "good", {"bible": 1})
    assert forest["bible"].card.valid_nats < forest["bible"].card.parent_valid_nats["seed"]
    words = [f"forest={forest.root}", "eval.domains=[bible,novels]", f"data.out={config.data.out}"]
    words += ["experiment=smoke", "score.max_tokens=1024"]
    assert main.main(["eval", *words]) == 0
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if line.startswith("warning:")]
    assert any("'same' is no better than 'seed'" in line for line in told)
    assert not any("'good'" in line for line in told)
    assert "averages and models: mean perplexity" in said.out
    result = json.loads((forest.root / "evals/forest.json").read_text())
    assert result["warnings"][0].startswith("the average 'same'")


def test_a_damaged_average_is_told_of_and_does_not_stop_an_evaluation(copy, capsys):
    config = copy("eval.domains=[bible]")
    weights = Forest(config.forest_root).root / "averages/uniform/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    words = [f"forest={config.forest_root}", "eval.domains=[bible]", f"data.out={config.data.out}"]
    assert main.main(["eval", "experiment=smoke", "score.max_tokens=1024", *words]) == 0
    assert "average 'uniform' is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["models=['']", "models=[a,a]", "score.experts=['']", "against=[1]"]
)
def test_names_that_make_no_sense_are_refused(words, capsys):
    assert main.main(["eval", "experiment=smoke", words]) == 2
    assert words.partition("=")[0] in capsys.readouterr().err
