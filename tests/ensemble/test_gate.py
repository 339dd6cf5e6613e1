"""The gate against its equation, token by token in plain Python; what it must not see; and
its fit.
"""

import math

import numpy as np
import pytest

from btm.cli.compose import compose
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, posterior
from btm.ensemble.gate import sums
from btm.ensemble.rule import ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text
from btm.errors import UserError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Short pieces and small groups, so that small arrays have many of them."""
    monkeypatch.setattr(sums, "_PIECE", 4)
    monkeypatch.setattr(sums, "_GROUP", 3)


def scores(seed, experts=5, tokens=120, scale=1.0):
    return -np.random.default_rng(seed).exponential(scale, (experts, tokens))


def ids(seed, tokens=120, vocabulary=5):
    return np.random.default_rng(seed + 100).integers(0, vocabulary, tokens)


def prior(seed, experts=5):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(experts)))


def weights_by_hand(logp_EN, log_prior_E, theta, ids_N, features=gate.FEATURES):
    """The weights before each token of one text, from the equation in the docstring of
    btm/ensemble/gate/rule.py.
    """
    experts, tokens = logp_EN.shape
    rows = []
    for t in range(tokens):
        logits = [theta[0] * p for p in log_prior_E]
        for power, (context, half_life) in zip(theta[1:], features, strict=True):
            here = [*ids_N[max(0, t - context) : t]]
            alike = [s for s in range(t) if [*ids_N[max(0, s - context) : s]] == here]
            for back, s in enumerate(reversed(alike)):
                for j in range(experts):
                    logits[j] += power * 2 ** (-back / half_life) * logp_EN[j, s]
        top = max(logits)
        total = sum(math.exp(x - top) for x in logits)
        rows.append([math.exp(x - top) / total for x in logits])
    return np.array(rows).T


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_its_equation(seed):
    logp, log_prior, tokens = scores(seed), prior(seed), ids(seed)
    theta = np.random.default_rng(seed).normal(0.3, 0.5, 8)
    mixed, weights = gate.mixed(logp, log_prior, theta, tokens)
    by_hand = weights_by_hand(logp, log_prior, theta, tokens)
    np.testing.assert_allclose(weights, by_hand, atol=1e-12)
    np.testing.assert_allclose(mixed, np.log((by_hand * np.exp(logp)).sum(axis=0)), atol=1e-12)


@pytest.mark.parametrize("window", [1, 7, 50])
def test_windows_are_texts_of_their_own(window):
    logp, tokens = scores(4), ids(4)
    begins = np.arange(120) % window == 0
    mixed, weights = gate.mixed(logp, prior(4), gate.DEFAULT, tokens, begins)
    for start in range(0, 120, window):
        some = slice(start, start + window)
        alone = gate.mixed(logp[:, some], prior(4), gate.DEFAULT, tokens[some])
        np.testing.assert_allclose(mixed[some], alone[0], atol=1e-12)
        np.testing.assert_allclose(weights[:, some], alone[1], atol=1e-12)


def test_the_prior_alone_is_simple_and_the_whole_past_is_bayes():
    logp, tokens = scores(5, scale=3.0), ids(5)
    simple = rule_of(EnsembleConfig(rule="simple")).weigh(logp[:, None], prior(5))[0][0]
    np.testing.assert_allclose(
        gate.mixed(logp, prior(5), [1] + [0] * 7, tokens)[0], simple, atol=1e-9
    )
    found = gate.mixed(logp, prior(5), [1, 1], tokens, features=((0, math.inf),))[0]
    np.testing.assert_allclose(found, posterior.mixture(logp, prior(5)), atol=1e-9)


@pytest.mark.parametrize("window", [120, 30])
def test_weights_are_those_of_the_past_alone(window):
    """Neither the token that comes nor its scores, nor anything later, moves a weight."""
    logp, tokens, begins = scores(6), ids(6), np.arange(120) % window == 0
    before = gate.mixed(logp, prior(6), gate.DEFAULT, tokens, begins)[1]
    for t in (0, 31, 77):
        other, spoilt = tokens.copy(), logp.copy()
        other[t:], spoilt[:, t:] = 1, scores(7)[:, t:]
        after = gate.mixed(spoilt, prior(6), gate.DEFAULT, other, begins)[1]
        np.testing.assert_allclose(after[:, : t + 1], before[:, : t + 1], atol=1e-12)
        assert np.abs(after - before).max() > 0.01


def test_order_of_experts_does_not_matter():
    logp, order = scores(8, 7), np.random.default_rng(0).permutation(7)
    mixed, weights = gate.mixed(logp, prior(8, 7), gate.DEFAULT, ids(8))
    again, permuted = gate.mixed(logp[order], prior(8, 7)[order], gate.DEFAULT, ids(8))
    np.testing.assert_allclose(again, mixed, atol=1e-12)
    np.testing.assert_allclose(permuted, weights[order], atol=1e-12)
    fits = [
        gate.fit([gate.Sample.of(x, p, ids(8))])
        for x, p in ((logp, prior(8, 7)), (logp[order], prior(8, 7)[order]))
    ]
    np.testing.assert_allclose(*fits, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_far_below_float_range(kind):
    logp = np.full((3, 120), -10_000.0, kind)
    logp[1] += 1
    logp[2, 60:] = -1
    mixed, weights = gate.mixed(logp, posterior.uniform_prior(3), gate.DEFAULT, ids(0))
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert np.isfinite(gate.fit([gate.Sample.of(logp, posterior.uniform_prior(3), ids(0))])).all()


def test_float32_scores_give_the_float64_loss():
    logp, tokens = scores(9, 16, 4000, 3.0).astype(np.float32), ids(9, 4000, 40)
    found, _ = gate.mixed(logp, prior(9, 16), gate.DEFAULT, tokens)
    wanted, _ = gate.mixed(logp.astype(np.float64), prior(9, 16), gate.DEFAULT, tokens)
    assert found.dtype == np.float64
    assert found.mean() == pytest.approx(wanted.mean(), abs=1e-6)


def test_a_belief_is_the_same_token_by_token():
    logp, log_prior, tokens = scores(10), prior(10), ids(10)
    mixed, weights = gate.mixed(logp, log_prior, gate.DEFAULT, tokens)
    online = gate.OnlineGate(log_prior)
    for t in range(120):
        np.testing.assert_allclose(np.exp(online.log_weights), weights[:, t], atol=1e-12)
        assert online.update(logp[:, t], int(tokens[t])) == pytest.approx(mixed[t], abs=1e-12)


def test_gradient_and_hessian_are_differences_of_the_loss():
    sample = gate.Sample.of(scores(11), prior(11), ids(11))
    theta, step = np.random.default_rng(1).normal(0.3, 0.5, 8), 1e-5
    value, gradient, hessian = sample.loss(theta)
    assert value == pytest.approx(-gate.mixed(scores(11), prior(11), theta, ids(11))[0].mean())
    for i, direction in enumerate(step * np.eye(8)):
        up, down = sample.loss(theta + direction), sample.loss(theta - direction)
        assert (up[0] - down[0]) / (2 * step) == pytest.approx(gradient[i], abs=1e-8)
        np.testing.assert_allclose((up[1] - down[1]) / (2 * step), hessian[i], atol=1e-6)


def learnable(seed, tokens=2000):
    """Scores of experts of which another is good after each token."""
    text = ids(seed, tokens, 6)
    logp = scores(seed, 5, tokens, 2.0)
    logp[np.concatenate([[0], text[:-1]]) % 5, np.arange(tokens)] = -0.3
    return logp, text


def test_the_fit_ends_where_no_direction_helps_and_holds_elsewhere():
    (logp, text), (other, other_text) = learnable(0), learnable(1)
    uniform = posterior.uniform_prior(5)
    start = np.zeros(8)
    theta = gate.fit([gate.Sample.of(logp, uniform, text)], start, pull=1e-6)
    assert theta == gate.fit([gate.Sample.of(logp, uniform, text)], start, pull=1e-6)
    assert np.abs(gate.Sample.of(logp, uniform, text).loss(np.array(theta))[1]).max() < 1e-4
    fitted, unfitted = (
        -gate.mixed(other, uniform, t, other_text)[0].mean() for t in (theta, start)
    )
    assert fitted < unfitted - 0.3


def test_few_tokens_leave_the_gate_near_its_default():
    logp, text = learnable(2)
    off = [
        np.abs(
            np.subtract(gate.fit([gate.Sample.of(logp[:, :n], prior(2), text[:n])]), gate.DEFAULT)
        ).max()
        for n in (2, 2000)
    ]
    assert off[0] < 0.1 < off[1]


def test_a_long_text_is_sampled():
    logp, text = learnable(3)
    whole = gate.Sample.of(logp, prior(3), text)
    some = gate.Sample.of(logp, prior(3), text, most=8 * 5 * 500)
    assert some.inputs.shape == (8, 5, 500)
    np.testing.assert_array_equal(some.inputs, whole.inputs[:, :, ::4])
    assert gate.Sample.of(logp, prior(3), text, most=8 * 5 * 10).ratio.shape == (5, 10)


@pytest.mark.parametrize("carry", ["window", "document"])
def test_an_ensemble_mixes_by_it(carry):
    logp, text = learnable(4, 2000)
    logp_EST = logp.astype(np.float32).reshape(5, 20, 100)
    chosen = EnsembleConfig(rule="gated", prior="token", carry=carry)
    rule = rule_of(chosen)
    log_prior = rule.fit_prior(logp_EST, 1950)
    every = 100 if carry == "window" else 170
    read = Text(text, np.arange(2000) % 170 == 0)
    begins = np.arange(1950) % every == 0
    valid = [ValidScores(logp_EST, log_prior, 1950, read)]
    fitted = rule.fit(valid)
    sample = gate.Sample.of(logp_EST.reshape(5, -1)[:, :1950], log_prior, text[:1950], begins)
    assert tuple(fitted.ensemble.gate) == gate.fit([sample])
    assert fitted.fit(valid) == fitted
    found = fitted.mix(logp_EST, log_prior, 1950, read)
    wanted, weights = gate.mixed(
        logp_EST.reshape(5, -1)[:, :1950], log_prior, fitted.theta, text[:1950], begins
    )
    assert found.nats == pytest.approx(-wanted.sum(), rel=1e-9)
    assert found.nats < rule_of(EnsembleConfig()).mix(logp_EST, log_prior, 1950).nats
    np.testing.assert_allclose(found.mean_posterior, weights.mean(axis=1), atol=1e-9)


def test_experts_outside_the_top_k_are_not_read():
    logp, text = learnable(5)
    log_prior = posterior.top_k(prior(5), 2)
    kept = np.isfinite(log_prior)
    spoilt = logp.copy()
    spoilt[~kept] = np.nan
    rule = rule_of(EnsembleConfig(rule="gated", carry="document"))
    text = Text(text, np.arange(2000) == 0)
    found, wanted = (
        rule.fit([ValidScores(x[:, None], p, 2000, text)])
        for x, p in ((spoilt, log_prior), (logp[kept], log_prior[kept]))
    )
    assert found == wanted
    mixed = found.mix(spoilt[:, None], log_prior, 2000, text)
    assert mixed.nats == found.mix(logp[kept][:, None], log_prior[kept], 2000, text).nats
    assert (mixed.mean_posterior[~kept] == 0).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="wanted"):
        gate.mixed(np.zeros(3), np.zeros(2), gate.DEFAULT, np.zeros(3))
    with pytest.raises(ValueError, match="the prior has shape"):
        gate.mixed(np.zeros((2, 3)), np.zeros(3), gate.DEFAULT, np.zeros(3))
    with pytest.raises(ValueError, match="2,"):
        gate.mixed(np.zeros((2, 3)), np.zeros(2), gate.DEFAULT, np.zeros(2))
    with pytest.raises(ValueError, match=r"\(2,\) marks for \(3,\) tokens"):
        gate.mixed(np.zeros((2, 3)), np.zeros(2), gate.DEFAULT, np.zeros(3), [True, False])
    with pytest.raises(ValueError, match="θ has shape"):
        gate.mixed(np.zeros((2, 3)), np.zeros(2), [1.0], np.zeros(3))
    with pytest.raises(ValueError, match="gated needs the tokens"):
        rule_of(EnsembleConfig(rule="gated")).mix(np.zeros((2, 1, 3), np.float32), np.zeros(2), 3)
    assert gate.mixed(np.zeros((2, 0)), np.zeros(2), gate.DEFAULT, np.zeros(0))[0].shape == (0,)


def test_the_settings():
    bundle = compose(["ensemble=gated"]).ensemble
    assert (bundle.rule, bundle.prior, bundle.carry, bundle.gate) == (
        "gated",
        "token",
        "window",
        None,
    )
    assert rule_of(EnsembleConfig(rule="gated", prior="uniform")).is_fitted
    given = compose(
        ["ensemble=gated", "ensemble.prior=uniform", "ensemble.gate=[1,0,0,0,0,0,0,0]"]
    ).ensemble
    assert not rule_of(given).is_fitted
    with pytest.raises(UserError, match=r"ensemble\.gate=.*wanted 8 numbers, or null"):
        compose(["ensemble=gated", "ensemble.gate=[1,0]"])
    with pytest.raises(UserError, match="give ensemble=updating"):
        compose(["ensemble=gated", "ensemble.prior=updating"])
    assert list(gate.named(gate.DEFAULT))[:2] == ["prior", "half-life 1"]


def test_settings_ask_for_as_many_numbers_as_there_are():
    from btm.config.ensemble import GATE_NUMBERS

    assert len(gate.DEFAULT) == GATE_NUMBERS
