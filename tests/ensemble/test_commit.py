"""Commit early: against each rule token by token in plain Python, and against what is really run."""

import json

import numpy as np
import pytest

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import generate
from btm.ensemble.commit import Commit
from btm.ensemble.rules import RULES, rule_of
from btm.ensemble.text import Text
from btm.errors import UserError
from btm.forest import Forest

CAN = [name for name in RULES if name != "router"]
NAMES = ["bible", "code_python", "speeches"]


def text_of(rng, tokens, carry):
    begins = np.zeros(tokens, bool)
    begins[[0, 7, 9, 40, 41, 75]] = True
    return Text(rng.integers(0, 9, tokens), begins)


def alone(rule, log_prior_E, logp_ET, ids, n, k):
    """One context: all experts read n tokens, then a rule of the k best goes on with its state."""
    online, kept, found = rule.begin(log_prior_E), np.arange(len(logp_ET)), []
    for t, token in enumerate(ids):
        if t == n:
            posterior_E = log_prior_E + logp_ET[:, :n].sum(axis=1)
            kept = np.sort(sorted(kept, key=lambda j: (-posterior_E[j], j))[:k])
            online.restrict(kept)
        found.append(online.update(logp_ET[kept, t], int(token)))
    return found


@pytest.mark.parametrize("rule", CAN)
@pytest.mark.parametrize("carry", ["window", "document"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (19, 1), (6, 4)])
def test_cached_scores_give_what_reading_token_by_token_gives(rule, carry, n, k):
    rng = np.random.default_rng(n)
    tokens, window = 93, 20
    logp_EST = -rng.exponential(1.0, (4, 5, window))
    text, log_prior_E = text_of(rng, tokens, carry), np.log(rng.dirichlet(np.ones(4)))
    words = {"alpha": 0.1, "beta": 0.9, "commit": n, "top_k": k, "carry": carry}
    built = rule_of(EnsembleConfig(rule=rule, **words))
    mixed = built.mix(logp_EST, log_prior_E, tokens, text)
    logp_EN = logp_EST.reshape(4, -1)[:, :tokens]
    starts = range(0, tokens, window) if carry == "window" else np.flatnonzero(text.begins)
    wanted = []
    for start, stop in zip(starts, [*starts[1:], tokens], strict=True):
        part = slice(start, stop)
        wanted += alone(built, log_prior_E, logp_EN[:, part], text.ids[part], n, k)
    np.testing.assert_allclose(mixed.logp, wanted, atol=1e-9)
    assert mixed.mean_posterior.sum() == pytest.approx(1)


def test_to_commit_to_all_changes_nothing_and_to_few_does():
    rng = np.random.default_rng(0)
    logp_EST, prior_E = -rng.exponential(1.0, (4, 3, 20)), np.log(np.full(4, 0.25))
    text = text_of(rng, 80, "window")

    def logp(rule, **words):
        words = {"alpha": 0.1, "beta": 0.9} | words
        return rule_of(EnsembleConfig(rule=rule, **words)).mix(logp_EST, prior_E, 60, text).logp

    text = Text(text.ids[:60], text.begins[:60])
    for rule in CAN:
        np.testing.assert_allclose(logp(rule, commit=5, top_k=4), logp(rule), atol=1e-12)
        one = logp(rule, commit=5, top_k=1).reshape(3, 20)
        np.testing.assert_array_equal(one[:, :5], logp(rule).reshape(3, 20)[:, :5])
        best = [
            any(np.allclose(row[5:], logp_EST[j, s, 5:]) for j in range(4))
            for s, row in enumerate(one)
        ]
        assert all(best)  # one expert's own scores, from the sixth token on


def test_a_second_expert_that_is_far_behind_is_still_the_second():
    """Its weight is too small for a float; a third, further behind, must not take its place."""
    logp_EST = np.zeros((3, 1, 40))
    logp_EST[1, 0, :20], logp_EST[2, 0, :20] = -50.0, -49.0  # 1,000 and 980 nats behind the first
    logp_EST[0, 0, 20:] = -100.0
    rule = rule_of(EnsembleConfig(rule="bayes", commit=20, top_k=2))
    mixed = rule.mix(logp_EST, np.log(np.full(3, 1 / 3)), 40)
    online = alone(rule, np.log(np.full(3, 1 / 3)), logp_EST[:, 0], range(40), 20, 2)
    np.testing.assert_allclose(mixed.logp, online, atol=1e-9)
    assert mixed.logp[-1] == pytest.approx(0)  # the third has taken over


def test_the_experts_that_run_are_counted():
    begins_N = np.zeros(100, bool)
    begins_N[[0, 40, 45]] = True
    late = 30 + 0 + 45
    assert Commit(10, 2).experts_run(begins_N, 8) == pytest.approx(
        (8 * (100 - late) + 2 * late) / 100
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ensemble.commit=8"], "give ensemble.top_k=K"),
        (["ensemble.commit=8", "ensemble.top_k=1", "ensemble=router"], "ensemble.rule=router"),
        (["ensemble.commit=8", "ensemble.top_k=1", "ensemble=updating"], "ensemble.prior=updating"),
        (["ensemble.commit=-1", "ensemble.top_k=1"], "ensemble.commit=-1"),
    ],
)
def test_a_commitment_that_cannot_be_is_refused(words, told):
    with pytest.raises(UserError, match=told):
        compose(words)


def test_eval_counts_the_reading_and_refuses_one_without_end(copy, capsys):
    result = steps.eval_forest(copy("ensemble.commit=16", "ensemble.top_k=1", "ensemble=uniform"))
    run = result["ledger"]["ensemble"]["experts_run"]
    assert 1 + 2 * 16 / 64 <= run < 1.6  # 3 experts for 16 of 64 tokens, and in the shorter windows
    one = result["ledger"]["elms"]["bible"]["inference_flops_per_token"]
    assert result["ledger"]["ensemble"]["inference_flops_per_token"] == pytest.approx(run * one)
    for config in (copy("ensemble.commit=64", "ensemble.top_k=1"),):
        for step in (steps.eval_forest, steps.plan_of_eval):
            with pytest.raises(UserError, match="a context has 64 tokens"):
                step(config)


def test_compare_has_it_beside_the_whole_ensemble_and_the_top_1(copy):
    plain = {row.model: row for row in steps.compare(copy()).rows}
    found = {
        row.model: row for row in steps.compare(copy("ensemble.commit=16", "ensemble.top_k=1")).rows
    }
    added = found.pop("commit to 1 after 16")
    assert {name: row.nats_per_token for name, row in found.items()} == {
        name: row.nats_per_token for name, row in plain.items()
    }
    whole = found["ensemble of 3"]
    assert added.inference_flops_per_token < 0.6 * whole.inference_flops_per_token
    assert added.nats_per_token != whole.nats_per_token


@pytest.mark.parametrize("rule", ["bayes", "tracking", "gated"])
def test_generate_lets_go_of_the_others(forest, rule):
    ensemble = EnsembleConfig(rule=rule, alpha=0.05, beta=0.9, commit=40, top_k=1)
    mixed = generate.Ensemble.load(forest, dict.fromkeys(NAMES, 1.0), ensemble=ensemble)
    whole = generate.Ensemble.load(
        forest, dict.fromkeys(NAMES, 1.0), ensemble=EnsembleConfig(rule=rule, alpha=0.05, beta=0.9)
    )
    ids = list(range(5, 65))
    read = mixed.read(ids)
    np.testing.assert_allclose(read[:40], whole.read(ids[:40]), atol=1e-6)
    [name] = mixed.names
    bayes = generate.Ensemble.load(forest, dict.fromkeys(NAMES, 1.0), ensemble=EnsembleConfig())
    bayes.read(ids[:40])
    assert name == max(bayes.weights, key=bayes.weights.get)  # by posterior, whatever the rule
    assert len(mixed.models) == 1 and mixed.weights == {name: pytest.approx(1)}
    one = generate.Ensemble.load(forest, {name: 1.0})
    np.testing.assert_allclose(read[40:], one.read(ids)[40:], atol=1e-5)
    assert list(mixed.generate(5, 0.0)) == list(one.generate(5, 0.0))


def test_generate_takes_the_words(copy, grown, capsys):
    config = copy()
    words = [f"forest={config.forest_root}", "experiment=smoke", f"data.out={config.data.out}"]
    more = ["prompt=In the beginning God created the heaven and the earth", "generate.tokens=4"]
    assert main(["generate", *words, *more, "ensemble.commit=4", "ensemble.top_k=2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["experts"]) == 2
    assert len(Forest(config.forest_root).experts()) == 3
