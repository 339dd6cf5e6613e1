"""posterior.py against the paper's equations evaluated by brute force, and the two theorems."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btm.ensemble import posterior


def random_logp(seed, experts=4, tokens=30, scale=3.0):
    return -np.random.default_rng(seed).exponential(scale, (experts, tokens))


def random_prior(seed, experts=4):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(experts)))


def brute_force(logp_ET, log_prior_E):
    """Equations 1 and 2 of the paper, token by token, with Python floats and no log-space
    tricks.
    """
    experts, tokens = logp_ET.shape
    belief, mixed = np.zeros((experts, tokens)), np.zeros(tokens)
    for t in range(tokens):
        joint = [
            math.exp(log_prior_E[j]) * math.prod(math.exp(x) for x in logp_ET[j, :t])
            for j in range(experts)
        ]
        belief[:, t] = [p / sum(joint) for p in joint]
        mixed[t] = sum(belief[j, t] * math.exp(logp_ET[j, t]) for j in range(experts))
    return belief, mixed


@pytest.mark.parametrize("seed", range(20))
def test_posterior_and_mixture_equal_brute_force(seed):
    logp, prior = random_logp(seed, scale=1.0), random_prior(seed)
    belief, mixed = brute_force(logp, prior)
    np.testing.assert_allclose(np.exp(posterior.domain_posterior(logp, prior)), belief, atol=1e-9)
    np.testing.assert_allclose(posterior.mixture(logp, prior), np.log(mixed), atol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 200))
def test_telescoping(seed, experts, tokens):
    logp, prior = random_logp(seed, experts, tokens), random_prior(seed, experts)
    total = np.logaddexp.reduce(prior + logp.sum(axis=1))
    assert posterior.mixture(logp, prior).sum() == pytest.approx(total, rel=1e-10)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 200))
def test_uniform_mixture_is_within_log_e_of_the_best(seed, experts, tokens):
    logp = random_logp(seed, experts, tokens)
    nats = -posterior.mixture(logp, posterior.uniform_prior(experts)).sum()
    assert nats <= -logp.sum(axis=1).max() + math.log(experts) + 1e-9


def test_order_of_experts_does_not_matter():
    logp, prior, order = (
        random_logp(1, 6),
        random_prior(1, 6),
        np.random.default_rng(2).permutation(6),
    )
    np.testing.assert_allclose(
        posterior.mixture(logp[order], prior[order]), posterior.mixture(logp, prior), atol=1e-12
    )
    np.testing.assert_allclose(
        posterior.domain_posterior(logp[order], prior[order]),
        posterior.domain_posterior(logp, prior)[order],
        atol=1e-9,
    )


def test_no_overflow_far_below_float_range():
    logp = np.full((3, 50), -10_000.0)
    logp[1] += 1
    mixed = posterior.mixture(logp, posterior.uniform_prior(3))
    assert np.isfinite(mixed).all()
    assert mixed[-1] == pytest.approx(-9_999.0)
    assert np.exp(posterior.final_posterior(logp, posterior.uniform_prior(3)))[1] == pytest.approx(
        1.0
    )


def test_posterior_before_the_first_token_is_the_prior():
    logp, prior = random_logp(3), random_prior(3)
    np.testing.assert_allclose(posterior.domain_posterior(logp, prior)[:, 0], prior)


def test_excluded_expert_stays_excluded():
    logp = random_logp(4)
    prior = posterior.top_k(random_prior(4), 2)
    belief = np.exp(posterior.domain_posterior(logp, prior))
    assert (belief[~np.isfinite(prior)] == 0).all()
    np.testing.assert_allclose(belief.sum(axis=0), 1)


def test_cached_prior_is_the_moving_average():
    sequences = [random_logp(seed, 3, 2, 0.3) for seed in range(7)]
    weights = np.full(3, 1 / 3)
    for logp in sequences:
        likelihood = np.exp(logp.sum(axis=1))
        weights = 0.7 * weights + 0.3 * likelihood / likelihood.sum()
    np.testing.assert_allclose(np.exp(posterior.cached_prior(sequences, 0.3)), weights, atol=1e-12)


def test_moving_priors_begin_uniform_and_see_only_the_past():
    sequences = [random_logp(seed, 3, 5, 0.3) for seed in range(4)]
    priors = list(posterior.moving_priors(sequences))
    assert len(priors) == 5
    np.testing.assert_allclose(priors[0], posterior.uniform_prior(3))
    np.testing.assert_allclose(priors[2], posterior.cached_prior(sequences[:2]))


def test_cached_prior_wants_a_sequence():
    with pytest.raises(ValueError, match="no sequence"):
        posterior.cached_prior([])


def test_em_prior_is_the_maximum_of_the_likelihood():
    logp_EST = np.stack([random_logp(seed, 5, 3, 0.5).reshape(5, 3) for seed in range(40)], axis=1)

    def likelihood(log_prior):
        return np.logaddexp.reduce(log_prior[:, None] + logp_EST.sum(axis=2), axis=0).sum()

    best = posterior.em_prior(logp_EST, iterations=20_000)
    assert np.exp(best).sum() == pytest.approx(1)
    for seed in range(200):
        other = np.log(0.99 * np.exp(best) + 0.01 * np.exp(random_prior(seed, 5)))
        assert likelihood(other) <= likelihood(best) + 1e-6


@pytest.mark.parametrize("k", [0, 4, 9])
def test_top_k_keeps_all(k):
    prior = random_prior(5)
    np.testing.assert_allclose(posterior.top_k(prior, k), prior, atol=1e-12)


def test_a_top_k_leaves_out_nobody_that_weighs_as_much_as_one_it_keeps():
    prior = np.log([0.2, 0.4, 0.2, 0.2])
    np.testing.assert_allclose(posterior.top_k(prior, 2), prior, atol=1e-12)


def test_top_k_keeps_the_likeliest():
    prior = np.log([0.1, 0.4, 0.2, 0.3])
    np.testing.assert_allclose(np.exp(posterior.top_k(prior, 2)), [0, 4 / 7, 0, 3 / 7])


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="wanted \\(4,\\)"):
        posterior.mixture(random_logp(1), posterior.uniform_prior(3))
    with pytest.raises(ValueError, match="2 axes"):
        posterior.mixture(np.zeros(3), posterior.uniform_prior(3))


def test_units():
    assert posterior.perplexity(math.log(20)) == pytest.approx(20)
    assert posterior.bits_per_byte(8 * math.log(2), 4) == pytest.approx(2)


def test_the_token_prior_is_the_best_plain_mixture():
    logp_EST = -np.random.default_rng(3).exponential(2.0, (3, 5, 40))
    p_EN = np.exp(logp_EST.reshape(3, -1))
    found = np.exp(posterior.token_prior(logp_EST, tolerance=1e-10))

    def nats(prior_E):
        return -np.log(prior_E @ p_EN).mean()

    grid = [
        np.array([a, b, 1 - a - b])
        for a in np.linspace(0, 1, 41)
        for b in np.linspace(0, 1 - a, 41)
    ]
    assert found.sum() == pytest.approx(1)
    assert nats(found) <= min(nats(np.abs(prior_E)) for prior_E in grid) + 1e-9
    # At the maximum every expert in use gains the same: Σ_n p_j / Σ_i π_i p_i = N.
    gains = (p_EN / (found @ p_EN)).mean(axis=1)
    np.testing.assert_allclose(gains[found > 1e-6], 1.0, atol=1e-4)


def test_the_token_prior_is_the_em_prior_of_sequences_of_one_token():
    logp_EST = -np.random.default_rng(4).exponential(2.0, (4, 6, 30))
    found = posterior.token_prior(logp_EST, tolerance=1e-12)
    wanted = posterior.em_prior(logp_EST.reshape(4, -1, 1))
    np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=1e-6)
