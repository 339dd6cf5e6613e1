"""The n-gram cache against plain Python, as a distribution, and in the rows of an evaluation."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from btm import steps
from btm.cli import main
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import cache, evaluate
from btm.ensemble.evaluate import Scored
from btm.ensemble.text import Text
from btm.errors import UserError
from btm.forest.paths import Paths

WORDS = 6


def text(seed, tokens=300, resets=(0, 1, 2, 60, 61, 200)):
    rng = np.random.default_rng(seed)
    ids = rng.choice(WORDS, tokens, p=rng.dirichlet(np.ones(WORDS)))
    begins = np.zeros(tokens, bool)
    begins[list(resets)] = True
    return -rng.exponential(2.0, tokens), ids, begins


def by_hand(p_model, history, token, weights):
    """p(token) after `history`, all that was read since the memory began."""
    total = weights[0] * p_model
    for order in (1, 2, 3):
        context = tuple(history[len(history) - order + 1 :])
        after = Counter(
            history[i]
            for i in range(order - 1, len(history))
            if tuple(history[i - order + 1 : i]) == context
        )
        whole = len(history) >= order - 1 and sum(after.values())
        total += weights[order] * (after[token] / sum(after.values()) if whole else p_model)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_its_equation(seed):
    logp, ids, begins = text(seed)
    weights = tuple(np.random.default_rng(seed).dirichlet(np.ones(4)))
    found = cache.mix(cache.Read(logp, ids, begins), weights)
    history = []
    for t, token in enumerate(ids.tolist()):
        history = [] if begins[t] else history
        wanted = by_hand(math.exp(logp[t]), history, token, weights)
        assert found[t] == pytest.approx(math.log(wanted), abs=1e-9)
        history.append(token)


def test_it_is_a_distribution():
    """Whatever was read, the probabilities of all tokens that may come next sum to 1."""
    _, ids, begins = text(5)
    model = np.random.default_rng(0).dirichlet(np.ones(WORDS))
    weights = (0.4, 0.3, 0.2, 0.1)
    for t in (0, 1, 2, 3, 59, 61, 62, 150, 299):
        total = 0.0
        for token in range(WORDS):
            changed = np.concatenate([ids[:t], [token]])
            read = cache.Read(np.log(model[changed]), changed, begins[: t + 1])
            total += math.exp(cache.mix(read, weights)[t])
        assert total == pytest.approx(1, abs=1e-12)


def test_the_fit_is_the_best_on_the_text_it_is_given():
    ids = np.tile(np.random.default_rng(1).integers(0, WORDS, 40), 5)
    logp = np.full(200, -math.log(WORDS))
    read = cache.Read(logp, ids, np.arange(200) == 0)
    weights = cache.fit([read])
    best = -cache.mix(read, weights).sum()
    assert sum(weights) == pytest.approx(1)
    assert weights[3] > 0.5  # trigrams come again and again
    assert best < -logp.sum() / 2
    for other in np.random.default_rng(2).dirichlet(np.ones(4), 50):
        near = 0.98 * np.array(weights) + 0.02 * other
        assert -cache.mix(read, near).sum() >= best - 1e-6


def test_a_text_without_repetitions_leaves_it_all_to_the_model():
    read = cache.Read(np.full(100, -0.5), np.arange(100), np.arange(100) == 0)
    weights = cache.fit([read])
    assert weights[1] < 0.01  # where nothing followed a context, its weight is the model's
    np.testing.assert_allclose(cache.mix(read, weights), -0.5, atol=0.01)


def test_every_row_of_a_shard_has_a_cache_of_its_own_fitted_on_valid():
    rng = np.random.default_rng(3)
    ids = np.tile(rng.integers(0, WORDS, 50), 8)
    names = ["good", "poor"]
    logp = np.stack([np.full((4, 100), -1.0), np.full((4, 100), -3.0)]).astype(np.float32)
    read = Text(ids, np.arange(400) % 200 == 0)
    scored = Scored(names, logp, (390, 999), read)
    plain, cached = (
        evaluate.shard_result(
            scored, names, scored, EnsembleConfig(rule="simple", cache=kind, carry="document")
        )
        for kind in ("none", "ngram")
    )
    for name in names:
        found = cached["experts"][name]
        assert found["nats_per_token"] < plain["experts"][name]["nats_per_token"]
        assert sum(found["cache"].values()) == pytest.approx(1)
    shares = [cached["experts"][name]["cache"]["model"] for name in names]
    assert shares[0] > shares[1]  # the worse the model, the more is left to the cache
    assert cached["ensemble"]["nats_per_token"] < plain["ensemble"]["nats_per_token"]
    by_window = evaluate.shard_result(scored, names, scored, EnsembleConfig(cache="ngram"))
    longer = cached["experts"]["poor"]["nats_per_token"]
    assert longer < by_window["experts"]["poor"]["nats_per_token"]


def test_eval_and_compare_have_it_in_every_row(copy):
    words = ["ensemble.cache=ngram", "eval.name=cached", "models=[averages/uniform]"]
    found = steps.eval_forest(copy(*words))
    plain = steps.eval_forest(copy("eval.name=plain", "models=[averages/uniform]"))
    for shard, entry in found["shards"].items():
        assert set(entry["cache"]) == {"model", "unigram", "bigram", "trigram"}
        for row in [*entry["experts"].values(), *entry["models"].values()]:
            assert sum(row["cache"].values()) == pytest.approx(1)
        assert entry["experts"].keys() == plain["shards"][shard]["experts"].keys()
    written = Paths(copy().forest_root).evaluation("cached")
    assert json.loads(written.read_bytes())["ensemble"]["cache"] == "ngram"
    rows = steps.compare(copy("ensemble.cache=ngram")).rows
    without = {row.model: row for row in steps.compare(copy()).rows}
    changed = [row for row in rows if row.nats_per_token != without[row.model].nats_per_token]
    assert len(changed) == len(rows)


def test_a_cache_is_not_measured_on_the_text_it_is_fitted_on(copy):
    with pytest.raises(UserError, match=r"and the cache are fitted on .*/valid"):
        steps.eval_forest(copy("ensemble=uniform", "ensemble.cache=ngram", "eval.split=valid"))
    with pytest.raises(UserError, match="moves from one document to the next"):
        copy("ensemble=updating", "ensemble.carry=document")


def test_a_verb_that_mixes_no_cache_refuses_it(capsys):
    assert main.main(["average", "ensemble.cache=ngram"]) == 2
    assert "ensemble.cache" in capsys.readouterr().err
