"""Every rule against its equation, token by token in plain Python; and what the rules promise."""

import ast
import math

import numpy as np
import pytest

import structure
from btm.config import ensemble as settings
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import evaluate, posterior, tracking, windows
from btm.ensemble.rule import ValidScores, WindowRule
from btm.ensemble.rules import RULES, rule_of
from btm.errors import UserError

BY_WINDOW = [name for name, rule in RULES.items() if issubclass(rule, WindowRule)]


def built(rule, alpha=None, beta=None, **more):
    return rule_of(EnsembleConfig(rule=rule, alpha=alpha, beta=beta, **more))


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


@pytest.mark.parametrize("rule", BY_WINDOW)
@pytest.mark.parametrize("seed", range(5))
def test_rules_equal_their_equations(rule, seed):
    logp, log_prior = scores(seed), prior(seed)
    mixed, weights = built(rule, 0.1, 0.9).weigh(logp, log_prior)
    for s in range(logp.shape[1]):
        by_hand = weights_by_hand(rule, logp[:, s], np.exp(log_prior), 0.1, 0.9)
        np.testing.assert_allclose(weights[:, s], by_hand, atol=1e-9)
        np.testing.assert_allclose(
            mixed[s], np.log((by_hand * np.exp(logp[:, s])).sum(axis=0)), atol=1e-6
        )


def test_bayes_is_the_papers_posterior():
    logp, log_prior = scores(1, 6, 4, 50, 4.0), prior(1, 6)
    mixed, weights = built("bayes").weigh(logp, log_prior)
    for s in range(4):
        np.testing.assert_allclose(mixed[s], posterior.mixture(logp[:, s], log_prior), atol=1e-9)
        np.testing.assert_allclose(
            weights[:, s], np.exp(posterior.domain_posterior(logp[:, s], log_prior)), atol=1e-9
        )


def test_tracking_without_switches_or_forgetting_is_bayes():
    logp, log_prior = scores(2, 5, 3, 60, 3.0), prior(2, 5)
    np.testing.assert_allclose(
        built("tracking", 0.0, 1.0).weigh(logp, log_prior)[0],
        built("bayes").weigh(logp, log_prior)[0],
        atol=1e-8,
    )


@pytest.mark.parametrize("rule", BY_WINDOW)
def test_far_below_float_range(rule):
    logp = np.full((3, 2, 40), -10_000.0)
    logp[1] += 1
    mixed, weights = built(rule, 0.01, 0.9).weigh(logp, posterior.uniform_prior(3))
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert (mixed <= -9_999.0 + 1e-6).all()


@pytest.mark.parametrize("rule", BY_WINDOW)
def test_a_left_out_expert_has_no_weight(rule):
    log_prior = posterior.top_k(prior(3), 2)
    _, weights = built(rule, 0.1, 0.9).weigh(scores(3), log_prior)
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
    loss = -built("fixed_share", alpha).weigh(logp, posterior.uniform_prior(experts))[0].sum()
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
    valid = [ValidScores(logp, uniform, count)]
    chosen = built("tracking").fit(valid).ensemble
    losses = {
        (alpha, beta): -built("tracking", alpha, beta).weigh(logp, uniform)[0].sum()
        for alpha in tracking.ALPHAS
        for beta in tracking.BETAS
    }
    assert (chosen.alpha, chosen.beta) == min(losses, key=losses.get)
    assert chosen.alpha > 0
    kept = built("tracking", 0.5, 0.5)
    assert kept.fit(valid) == kept
    share = built("fixed_share").fit(valid).ensemble
    assert share.beta == 1.0
    assert share.alpha == min(tracking.ALPHAS, key=lambda alpha: losses[alpha, 1.0])


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="wanted"):
        built("bayes").weigh(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="the prior has shape"):
        built("bayes").weigh(np.zeros((2, 3, 4)), np.zeros(3))


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.9), (0.003, 1.0), (0.0, 0.9), (0.0, 1.0)])
@pytest.mark.parametrize("rule", BY_WINDOW)
@pytest.mark.parametrize("blocks", [1, 3])
def test_carried_windows_are_one_long_sequence(rule, alpha, beta, blocks):
    logp, log_prior = scores(7, 4, 9, 20), prior(7)
    chosen = built(rule, alpha, beta)
    whole, weights = chosen.weigh(logp.reshape(4, 1, 180), log_prior)
    begin, found, held = None, [], []
    for part in np.split(logp, blocks, axis=1):
        first, begin = chosen.carry(part, log_prior, begin)
        mixed, weights_part = chosen.weigh(part, log_prior, first)
        found.append(mixed.reshape(-1))
        held.append(weights_part.reshape(4, -1))
    np.testing.assert_allclose(np.concatenate(found), whole[0], atol=1e-6)
    np.testing.assert_allclose(np.concatenate(held, axis=1), weights[:, 0], atol=1e-8)


@pytest.mark.parametrize("rule", BY_WINDOW)
def test_an_ensemble_that_carries_has_read_the_whole_shard(rule, monkeypatch):
    monkeypatch.setattr(windows, "_BLOCK", 160)
    monkeypatch.setattr(windows, "_STEP", 1)
    logp, log_prior = scores(8, 4, 9, 20).astype(np.float32), prior(8)
    chosen = built(rule, 0.1, 0.9, carry=True)
    found = chosen.mix(logp, log_prior, 175)
    whole, weights = chosen.weigh(logp.reshape(4, 1, 180), log_prior)
    assert found.nats == pytest.approx(-whole[0, :175].sum(), rel=1e-6)
    np.testing.assert_allclose(found.mean_posterior, weights[:, 0, :175].mean(axis=1), atol=1e-6)
    if rule == "tracking":
        (nats,) = tracking.nats_of_choices(logp, log_prior, 175, [(0.1, 0.9)], chosen.ensemble)
        assert nats == pytest.approx(found.nats, rel=1e-9)


@pytest.mark.parametrize("rule", BY_WINDOW)
def test_float32_scores_give_the_float64_loss(rule):
    logp, log_prior = scores(9, 16, 40, 64, 3.0).astype(np.float32), prior(9, 16)
    found, _ = built(rule, 0.03, 0.9).weigh(logp, log_prior)
    wanted, _ = built(rule, 0.03, 0.9).weigh(logp.astype(np.float64), log_prior)
    assert found.dtype == np.float64
    assert abs(found.mean() - wanted.mean()) <= 1e-6
    assert found.sum() == pytest.approx(wanted.sum(), rel=1e-6)


@pytest.mark.parametrize("rule", BY_WINDOW)
def test_experts_outside_the_top_k_are_not_read(rule):
    logp, log_prior = scores(10).astype(np.float32), posterior.top_k(prior(10), 2)
    chosen = built(rule, 0.1, 0.9)
    kept = np.isfinite(log_prior)
    spoilt = logp.copy()
    spoilt[~kept] = np.nan
    found = chosen.mix(spoilt, log_prior, 55)
    wanted = chosen.mix(logp[kept], log_prior[kept], 55)
    assert found.nats == wanted.nats
    assert (found.mean_posterior[~kept] == 0).all()
    np.testing.assert_array_equal(found.mean_posterior[kept], wanted.mean_posterior)


def test_a_rule_has_one_word_and_one_class():
    assert tuple(RULES) == settings.RULES
    with pytest.raises(UserError, match=r"ensemble\.rule='bayesian': choose one of bayes, simple"):
        built("bayesian")


def test_rules_that_need_no_valid_split_may_be_measured_on_it():
    fitted = {
        name: built(name, prior="uniform").is_fitted or built(name, prior="em").is_fitted
        for name in RULES
    }
    assert [name for name, is_fitted in fitted.items() if not is_fitted] == ["router"]
    fits = {name for name in RULES if built(name, prior="uniform").is_fitted}
    assert fits == {"fixed_share", "tracking", "gated"}
    assert not built("fixed_share", 0.1, prior="updating").is_fitted
    assert built("tracking", 0.1, prior="updating").is_fitted


def test_only_the_ensemble_and_the_checks_of_its_settings_ask_for_the_name_of_a_rule():
    asking = {
        module
        for module, path in structure.modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for part in ast.iter_child_nodes(node)
        if isinstance(part, ast.Attribute) and part.attr == "rule"
    }
    assert asking == {"btm.config.ensemble"}


class Newest(WindowRule):
    """An eighth rule: the expert that was best at the last token, and at first the prior."""

    def _weigh(self, logp_EST, log_prior_ES, first_ES):
        logp_SET = logp_EST.swapaxes(0, 1)
        log_prior_ES = log_prior_ES if first_ES is None else first_ES
        online = [self.begin(log_prior_E) for log_prior_E in log_prior_ES.T]
        seen = [
            [weights.update(logp_E) for logp_E in logp_ET.T]
            for weights, logp_ET in zip(online, logp_SET, strict=True)
        ]
        return np.array(seen), np.ones(logp_EST.shape) / len(logp_EST)

    def _carry(self, logp_EST, log_prior_ES, begin_E):
        ends = [
            self.step(None, *each) for each in zip(logp_EST[..., -1].T, log_prior_ES.T, strict=True)
        ]
        return np.stack([begin_E, *ends[:-1]], axis=1), ends[-1]

    def step(self, log_weights_E, logp_E, log_prior_E):
        return np.log(0.9 * (logp_E == logp_E.max()) + 0.1 * np.exp(log_prior_E))


def test_an_eighth_rule_is_one_class(monkeypatch):
    monkeypatch.setitem(RULES, "newest", Newest)
    rng = np.random.default_rng(0)
    turns = np.repeat(rng.integers(0, 4, 20), 16).reshape(10, 32)
    logp = np.where(turns[None] == np.arange(4)[:, None, None], -0.1, -4.0).astype(np.float32)
    names = ["a", "b", "c", "d"]
    nats = {}
    for rule in ("newest", "simple", "bayes"):
        chosen = EnsembleConfig(rule=rule, prior="token", top_k=3)
        found = evaluate.shard_result(names, logp, names, logp, chosen, (320, 999), 320)
        assert len([share for share in found["mean_posterior"].values() if share]) == 3
        nats[rule] = found["ensemble"]["nats_per_token"]
    assert nats["newest"] < min(nats["simple"], nats["bayes"])
    carried = EnsembleConfig(rule="newest", prior="token", top_k=3, carry=True)
    found = evaluate.shard_result(names, logp, names, logp, carried, (320, 999), 320)
    assert found["ensemble"]["nats_per_token"] < nats["newest"]  # it begins windows with more
