"""Every rule against its equation, token by token in plain Python; and what the rules promise."""

import math

import numpy as np
import pytest

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import fit, mix, posterior, rules


def scores(seed, experts=4, sequences=3, tokens=20, scale=1.0):
    return -np.random.default_rng(seed).exponential(scale, (experts, sequences, tokens))


def prior(seed, experts=4):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(experts)))


def normalise(values):
    total = sum(values)
    return [value / total for value in values]


def weights_by_hand(rule, logp_ET, pi, alpha, beta):
    """The weights before each token of one sequence, from the equations in the docstrings."""
    experts, tokens = logp_ET.shape
    p = np.exp(logp_ET)
    rows = []
    w = list(pi)
    for t in range(tokens):
        if rule == "bayes":
            w = normalise([pi[j] * math.prod(p[j, :t]) for j in range(experts)])
        elif rule == "last_token":
            w = normalise([pi[j] * p[j, t - 1] if t else 1.0 for j in range(experts)])
        elif rule in ("tracking", "fixed_share") and t:
            power = beta if rule == "tracking" else 1.0
            seen = normalise([w[j] ** power * p[j, t - 1] for j in range(experts)])
            w = [(1 - alpha) * seen[j] + alpha * pi[j] for j in range(experts)]
        rows.append(w)
    return np.array(rows).T


@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize("seed", range(5))
def test_rules_equal_their_equations(rule, seed):
    logp, log_prior = scores(seed), prior(seed)
    mixed, weights = rules.RULES[rule](logp, log_prior, 0.1, 0.9)
    for s in range(logp.shape[1]):
        by_hand = weights_by_hand(rule, logp[:, s], np.exp(log_prior), 0.1, 0.9)
        np.testing.assert_allclose(weights[:, s], by_hand, atol=1e-9)
        np.testing.assert_allclose(
            mixed[s], np.log((by_hand * np.exp(logp[:, s])).sum(axis=0)), atol=1e-6
        )


def test_bayes_is_the_papers_posterior():
    logp, log_prior = scores(1, 6, 4, 50, 4.0), prior(1, 6)
    mixed, weights = rules.bayes(logp, log_prior)
    for s in range(4):
        np.testing.assert_allclose(mixed[s], posterior.mixture(logp[:, s], log_prior), atol=1e-9)
        np.testing.assert_allclose(
            weights[:, s], np.exp(posterior.domain_posterior(logp[:, s], log_prior)), atol=1e-9
        )


def test_tracking_without_switches_or_forgetting_is_bayes():
    logp, log_prior = scores(2, 5, 3, 60, 3.0), prior(2, 5)
    np.testing.assert_allclose(
        rules.tracking(logp, log_prior, 0.0, 1.0)[0], rules.bayes(logp, log_prior)[0], atol=1e-8
    )


@pytest.mark.parametrize("rule", rules.RULES)
def test_far_below_float_range(rule):
    logp = np.full((3, 2, 40), -10_000.0)
    logp[1] += 1
    mixed, weights = rules.RULES[rule](logp, posterior.uniform_prior(3), 0.01, 0.9)
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert (mixed <= -9_999.0 + 1e-6).all()


@pytest.mark.parametrize("rule", rules.RULES)
def test_a_left_out_expert_has_no_weight(rule):
    log_prior = posterior.top_k(prior(3), 2)
    _, weights = rules.RULES[rule](scores(3), log_prior, 0.1, 0.9)
    left_out = np.isneginf(log_prior)
    start = 1 if rule == "last_token" else 0
    assert (weights[left_out, :, start:] == 0).all()


@pytest.mark.parametrize("switches", [0, 1, 4])
def test_fixed_share_is_bounded_against_the_best_sequence_of_experts(switches):
    """Herbster and Warmuth: regret ≤ log E + m log(E / α') + (T - 1 - m) log(1 / (1 - α)), m
    switches.
    """
    experts, tokens, alpha = 3, 200, 0.05
    rng = np.random.default_rng(switches)
    logp = -rng.exponential(3.0, (experts, 1, tokens))
    best = np.repeat(rng.permutation(switches + 1) % experts, -(-tokens // (switches + 1)))[:tokens]
    logp[best, 0, np.arange(tokens)] = -0.1
    moved = int((np.diff(best) != 0).sum())
    loss = -rules.fixed_share(logp, posterior.uniform_prior(experts), alpha)[0].sum()
    bound = (
        math.log(experts)
        + moved * math.log(experts / alpha)
        - (tokens - 1 - moved) * math.log(1 - alpha)
    )
    assert loss <= 0.1 * tokens + bound


def test_the_fit_takes_what_is_best_on_valid():
    rng = np.random.default_rng(0)
    turns = np.repeat(rng.integers(0, 4, 40), 8)
    logp = -rng.exponential(4.0, (4, 10, 32))
    logp[turns.reshape(10, 32)[None] == np.arange(4)[:, None, None]] = -0.2
    uniform, count = posterior.uniform_prior(4), logp.shape[1] * logp.shape[2]
    chosen = fit.fit_rule([logp], [uniform], EnsembleConfig(rule="tracking", prior="em"), [count])
    losses = {
        (alpha, beta): -rules.tracking(logp, uniform, alpha, beta)[0].sum()
        for alpha in fit.ALPHAS
        for beta in fit.BETAS
    }
    assert (chosen.alpha, chosen.beta) == min(losses, key=losses.get)
    assert chosen.alpha > 0
    kept = EnsembleConfig(rule="tracking", alpha=0.5, beta=0.5)
    assert fit.fit_rule([logp], [uniform], kept, [count]) == kept


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="wanted"):
        rules.bayes(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="the prior has shape"):
        rules.bayes(np.zeros((2, 3, 4)), np.zeros(3))


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.9), (0.003, 1.0), (0.0, 0.9), (0.0, 1.0)])
@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize("blocks", [1, 3])
def test_carried_windows_are_one_long_sequence(rule, alpha, beta, blocks):
    logp, log_prior = scores(7, 4, 9, 20), prior(7)
    whole, weights = rules.RULES[rule](logp.reshape(4, 1, 180), log_prior, alpha, beta)
    begin, found, held = None, [], []
    for part in np.split(logp, blocks, axis=1):
        first, begin = rules.carried(rule, part, log_prior, alpha, beta, begin)
        mixed, weights_part = rules.RULES[rule](part, log_prior, alpha, beta, first)
        found.append(mixed.reshape(-1))
        held.append(weights_part.reshape(4, -1))
    np.testing.assert_allclose(np.concatenate(found), whole[0], atol=1e-6)
    np.testing.assert_allclose(np.concatenate(held, axis=1), weights[:, 0], atol=1e-8)


@pytest.mark.parametrize("rule", rules.RULES)
def test_an_ensemble_that_carries_has_read_the_whole_shard(rule, monkeypatch):
    monkeypatch.setattr(mix, "_BLOCK", 160)
    monkeypatch.setattr(mix, "_STEP", 1)
    logp, log_prior = scores(8, 4, 9, 20).astype(np.float32), prior(8)
    chosen = EnsembleConfig(rule=rule, alpha=0.1, beta=0.9, carry=True)
    found = mix.mix(logp, log_prior, chosen, 175)
    whole, weights = rules.RULES[rule](logp.reshape(4, 1, 180), log_prior, 0.1, 0.9)
    assert found.nats == pytest.approx(-whole[0, :175].sum(), rel=1e-6)
    np.testing.assert_allclose(found.mean_posterior, weights[:, 0, :175].mean(axis=1), atol=1e-6)
    if rule == "tracking":
        (nats,) = fit._tracking_nats(logp, log_prior, [chosen], 175)
        assert nats == pytest.approx(found.nats, rel=1e-9)


@pytest.mark.parametrize("rule", rules.RULES)
def test_float32_scores_give_the_float64_loss(rule):
    logp, log_prior = scores(9, 16, 40, 64, 3.0).astype(np.float32), prior(9, 16)
    found, _ = rules.RULES[rule](logp, log_prior, 0.03, 0.9)
    wanted, _ = rules.RULES[rule](logp.astype(np.float64), log_prior, 0.03, 0.9)
    assert found.dtype == np.float64
    assert abs(found.mean() - wanted.mean()) <= 1e-6
    assert found.sum() == pytest.approx(wanted.sum(), rel=1e-6)


@pytest.mark.parametrize("rule", rules.RULES)
def test_experts_outside_the_top_k_are_not_read(rule):
    logp, log_prior = scores(10).astype(np.float32), posterior.top_k(prior(10), 2)
    chosen = EnsembleConfig(rule=rule, alpha=0.1, beta=0.9)
    kept = np.isfinite(log_prior)
    spoilt = logp.copy()
    spoilt[~kept] = np.nan
    found = mix.mix(spoilt, log_prior, chosen, 55)
    wanted = mix.mix(logp[kept], log_prior[kept], chosen, 55)
    assert found.nats == wanted.nats
    assert (found.mean_posterior[~kept] == 0).all()
    np.testing.assert_array_equal(found.mean_posterior[kept], wanted.mean_posterior)
