"""The warning before an average of experts whose text is far apart."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from btm import steps
from btm.cli.main import main
from btm.steps import apart
from btm.steps.averages import plan_of_average

SEED = np.random.default_rng(0)


def sample(p_P, size):
    return np.bincount(SEED.choice(len(p_P), size, p=p_P), minlength=len(p_P))


def zipf(vocab):
    return 1 / np.arange(1, vocab + 1) / (1 / np.arange(1, vocab + 1)).sum()


def test_it_is_the_divergence_of_jensen_and_shannon():
    p_P, q_P = zipf(500), zipf(500)[::-1]
    counts = np.array([sample(p_P, 300_000), sample(q_P, 300_000)])
    found = apart.divergence(counts, np.array([2.0, 2.0]))
    assert found == pytest.approx(jensenshannon(p_P, q_P, base=2) ** 2, abs=5e-3)
    assert apart.divergence(np.array([[9_000, 0], [0, 9_000]]), np.ones(2)) == pytest.approx(
        1, abs=1e-3
    )
    # The weights are those of the average: of one text alone a token tells nothing.
    assert apart.divergence(counts, np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-2)


def test_small_samples_of_one_text_are_not_far_apart():
    counts = np.array([sample(zipf(8192), 2_000) for _ in range(6)])
    p_MP = counts / 2_000
    plain = apart._entropy(p_MP.mean(axis=0)) - np.mean([apart._entropy(p) for p in p_MP])
    assert plain > apart.FAR > 0.2 > apart.divergence(counts, np.ones(6))


def test_a_large_shard_is_counted_in_pieces(grown, monkeypatch):
    suite = steps.open_suite(grown[0])
    shard = suite.shard("bible", "train")
    tokenizer = apart.tokenizer_of(suite)
    monkeypatch.setattr(apart, "_RUN", shard.n_tokens)
    whole = apart.count(shard, tokenizer)
    assert whole.sum() == pytest.approx(shard.n_bytes, rel=0.01)
    assert whole[ord("t") << 8 | ord("h")] > whole[ord("q") << 8 | ord("h")]
    monkeypatch.setattr(apart, "_RUN", 64)
    parts = apart.count(shard, tokenizer)
    assert parts.sum() == pytest.approx(whole.sum(), rel=0.2) and (parts != whole).any()
    assert apart.divergence(np.array([whole, parts]), np.ones(2)) < 0.03


def test_experts_that_share_little_are_warned_of_and_others_not(copy, capsys):
    config = copy()
    words = [f"forest={config.forest_root}", f"data.out={config.data.out}", "average.measure=false"]

    def warned(*more):
        assert main(["average", *words, *more]) == 0
        said = capsys.readouterr().err
        assert said.count("warning") == said.count("share little")
        assert main(["average", *words, *more, "--dry-run"]) == 0
        assert ("share little" in capsys.readouterr().out) == ("share little" in said)
        return [line for line in said.splitlines() if "share little" in line]

    (line,) = warned("weights={bible: 1, code_python: 1}", "average.name=far")
    assert line.startswith("warning: the domains of bible, code_python share little (divergence 0.")
    assert warned("weights={bible: 0.97, code_python: 0.03}", "average.name=near") == []
    # Of one domain it is told by its measure there; what is subtracted is not averaged.
    assert warned("weights=argmax", "domain=novels") == []
    method = "average.method=task_arithmetic"
    assert warned("weights={bible: 1, code_python: -1}", method, "average.name=less") == []


def test_nothing_is_said_of_text_that_is_not_prepared(copy, tmp_path):
    assert plan_of_average(copy()).cautions
    assert plan_of_average(copy(f"data.out={tmp_path / 'nowhere'}")).cautions == ()
