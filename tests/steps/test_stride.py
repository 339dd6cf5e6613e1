"""Overlapping windows (`score.stride`): the scores of others' definition of perplexity."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from btm.cli import main
from btm.cli.compose import compose
from btm.data.batches import windows
from btm.ensemble import posterior
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import open_suite
from btm.report import quiet
from btm.steps import score_cache
from btm.steps.evaluate import evaluation_stands

WINDOW = 24


def hugging_face(model, stream, window, stride):
    """Hugging Face's guide, "Perplexity of fixed-length models": its loop, with its windows of
    `window` + 1 tokens, of which the last has no successor. log p of all but the first token.
    """
    found = torch.full((len(stream) - 1,), math.nan)
    scored = 1
    for begin in range(0, len(stream), stride):
        end = min(begin + window + 1, len(stream))
        ids = torch.tensor(stream[begin:end])[None]
        with torch.no_grad():
            logp = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
        own = logp.gather(1, ids[0, 1:, None])[:, 0]
        new = end - scored
        found[end - 1 - new : end - 1] = own[-new:].float()
        scored = end
        if end == len(stream):
            break
    return found.numpy()


@pytest.mark.parametrize("stride", [1, 5, 23, 24, 0])
@pytest.mark.parametrize("batch", [1, 7])
def test_windows_hold_each_token_as_new_once(forest, grown, stride, batch):
    shard = open_suite(grown[0]).shard("bible", "valid")
    some = windows(shard, WINDOW, 130, stride)
    seen, places = [], np.arange(some.n_tokens)
    for i in range(0, some.n_windows, batch):
        j = min(i + batch, some.n_windows)
        seen.append(some.new(some.targets(i, j), i))
        moved = np.lib.stride_tricks.sliding_window_view(
            np.arange((j - i - 1) * some.step + WINDOW) + i * some.step, WINDOW
        )[:: some.step]
        places = np.setdiff1d(places, some.new(moved, i))
        assert np.array_equal(some.inputs(i, j)[:, 1:], some.targets(i, j)[:, :-1])
    assert np.array_equal(np.concatenate(seen), shard.tokens[: some.n_tokens])
    assert not len(places)


@pytest.mark.parametrize("stride", [1, 7, 24])
def test_scores_are_those_of_transformers(stride, copy):
    words = [f"score.window={WINDOW}", f"score.stride={stride}", "score.max_tokens=130"]
    config = copy(*words, "score.batch_size=5")
    forest, suite = Forest(config.forest_root), open_suite(config)
    elm, shard = forest["bible"], suite.shard("bible", "test")
    score_cache.score_missing(config, forest, elm.path, elm.card.sha256, [shard], quiet)
    stored = score_cache.scores_of(config, forest).read(shard, elm.card.sha256)
    tokens = shard.head(130)[0]
    assert stored.shape == (-(-tokens // WINDOW), WINDOW)
    model = AutoModelForCausalLM.from_pretrained(elm.path, dtype=torch.float32).eval()
    stream = [shard.eos, *shard.tokens[:tokens].tolist()]
    wanted = hugging_face(model, stream, WINDOW, stride)
    np.testing.assert_allclose(stored.reshape(-1)[:tokens], wanted, atol=1e-5)
    assert not stored.reshape(-1)[tokens:].any()


def test_without_a_stride_the_files_are_those_of_before(copy):
    """The same names and, bit for bit, the same scores: a stride of the window is none."""
    config = copy(f"score.window={WINDOW}", "score.max_tokens=300")
    again = copy_of(config, stride=WINDOW)
    forest, suite = Forest(config.forest_root), open_suite(config)
    elm, shard = forest["bible"], suite.shard("bible", "test")
    scores = score_cache.scores_of(config, forest)
    assert scores == score_cache.scores_of(again, forest)
    path = scores.path(shard, elm.card.sha256)
    assert path.parent.name == f"bible-test-{shard.sha256[:16]}-w{WINDOW}-t300"
    assert score_cache.scores_of(copy_of(config, stride=5), forest).path(shard, "x") != path


def copy_of(config, stride):
    return replace(config, score=replace(config.score, stride=stride))


@pytest.fixture
def words(copy, workspace, tmp_path):
    """Words of commands on a copy of the forest, in windows of 32 tokens."""
    copy()
    return [*workspace, f"forest={tmp_path / 'forest'}", "score.window=32", "score.max_tokens=512"]


def run(capsys, *words):
    code = main.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_an_evaluation_is_of_its_stride(words, capsys, tmp_path):
    overlap = [*words, "score.stride=8", "eval.name=overlap"]
    code, out, _ = run(capsys, "eval", *overlap, "--dry-run", "--json")
    assert code == 0
    said = "windows of 32 tokens that begin every 8 (score.stride): each token is read 4 times"
    assert said in out
    assert run(capsys, "eval", *words, "eval.name=plain", "--json")[0] == 0
    code, out, err = run(capsys, "eval", *overlap, "--json")
    assert code == 0 and "each token is read 4 times" in err
    plain = json.loads((tmp_path / "forest/evals/plain.json").read_text())
    found = json.loads(out)
    assert (plain["stride"], found["stride"]) == (0, 8)
    for name, entry in found["shards"].items():
        before = plain["shards"][name]
        assert (entry["tokens"], entry["bytes"]) == (before["tokens"], before["bytes"])
        # More context: lower losses of models that were trained at all.
        assert entry["ensemble"]["nats_per_token"] != before["ensemble"]["nats_per_token"]
        assert entry["experts"].keys() == before["experts"].keys()
    _, out, err = run(capsys, "eval", *overlap)
    assert "windows of 32 every 8 tokens" in " ".join(out.split())
    assert "each token is read" not in err  # all scores stand
    config = compose(overlap)
    assert evaluation_stands(config)
    assert not evaluation_stands(compose([*words, "score.stride=4", overlap[-1]]))
    assert not evaluation_stands(compose([*words, overlap[-1]]))


def test_an_evaluation_from_before_strides_stands(words, capsys, tmp_path):
    assert run(capsys, "eval", *words, "eval.name=plain")[0] == 0
    file = tmp_path / "forest/evals/plain.json"
    values = json.loads(file.read_text())
    del values["stride"]
    file.write_text(json.dumps(values))
    asked = [*words, "eval.name=plain"]
    assert evaluation_stands(compose(asked))
    assert not evaluation_stands(compose([*asked, "score.stride=8"]))


def test_the_ensemble_is_that_of_the_scored_tokens(words, capsys, tmp_path):
    """Rules read the scores of the stride, each token once, in rows of the window."""
    words = [*words, "score.stride=8", "ensemble=uniform", "ensemble.rule=bayes"]
    assert run(capsys, "eval", *words, "eval.name=e", "--json")[0] == 0
    config = compose(words)
    forest, suite = Forest(config.forest_root), open_suite(config)
    shard = suite.shard("bible", "test")
    members = forest.experts()
    logp_EST = score_cache.stack(score_cache.scores_of(config, forest), shard, members)
    prior = posterior.uniform_prior(len(members))
    total = sum(
        float(posterior.mixture(logp_EST[:, s], prior).sum()) for s in range(len(logp_EST[0]))
    )
    tokens = shard.head(512)[0]
    found = json.loads((tmp_path / "forest/evals/e.json").read_text())["shards"]["bible/test"]
    assert found["ensemble"]["nats_per_token"] == pytest.approx(-total / tokens, abs=1e-5)


def test_a_comparison_says_its_stride(words, capsys, tmp_path):
    code, out, _ = run(capsys, "compare", *words, "score.stride=16", "eval.name=c")
    assert code == 0
    said = " ".join(out.split())
    assert "windows begin every 16 tokens" in said and "that begin every 16" in said
    assert json.loads((tmp_path / "forest/evals/c-compare.json").read_text())["stride"] == 16


def test_cards_are_measured_in_windows_that_do_not_overlap(words, capsys, tmp_path):
    """So the losses on cards compare, and an average is the same one whatever the stride."""
    asked = ["average", *words, "weights=posterior", "domain=bible", "average.name=a"]
    assert run(capsys, *asked)[0] == 0
    card = (tmp_path / "forest/averages/a/card.json").read_bytes()
    assert run(capsys, *asked, "score.stride=4")[0] == 0
    assert (tmp_path / "forest/averages/a/card.json").read_bytes() == card
    assert not [p for p in Path(tmp_path / "forest/scores").iterdir() if "-s4" in p.name]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("score.stride=33", "score.stride=33: leaves tokens out between windows of 32"),
        ("score.stride=-1", "score.stride=-1: wanted 0 or more"),
    ],
)
def test_a_stride_that_makes_no_sense(words, word, said, capsys):
    code, _, err = run(capsys, "eval", *words, word)
    assert code == 2 and said in err and err.count("\n") == 1
    with pytest.raises(UserError):
        compose([*words, word])
