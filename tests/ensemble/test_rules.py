"""Every rule against its equation, token by token in plain Python; and what the rules promise."""

import ast
import itertools
import math

import numpy as np
import pytest

import structure
from btm.config import ensemble as settings
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import evaluate, posterior, priors, text, tracking
from btm.ensemble.evaluate import Scored
from btm.ensemble.rule import SequenceRule, ValidScores
from btm.ensemble.rules import RULES, rule_of
from btm.ensemble.text import Text
from btm.errors import UserError

BY_SEQUENCE = [name for name, rule in RULES.items() if issubclass(rule, SequenceRule)]


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


@pytest.mark.parametrize("rule", BY_SEQUENCE)
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


@pytest.mark.parametrize("rule", BY_SEQUENCE)
def test_far_below_float_range(rule):
    logp = np.full((3, 2, 40), -10_000.0)
    logp[1] += 1
    mixed, weights = built(rule, 0.01, 0.9).weigh(logp, posterior.uniform_prior(3))
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert (mixed <= -9_999.0 + 1e-6).all()


@pytest.mark.parametrize("rule", BY_SEQUENCE)
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


def documents(seed, tokens, longest):
    """Tokens in documents of up to `longest` tokens."""
    rng = np.random.default_rng(seed)
    begins = np.zeros(tokens, bool)
    at = 0
    while at < tokens:
        begins[at] = True
        at += int(rng.integers(1, longest + 1))
    return Text(rng.integers(0, 9, tokens), begins)


@pytest.mark.parametrize("longest", [1, 7, 70])
@pytest.mark.parametrize("rule", BY_SEQUENCE)
def test_documents_are_sequences_whatever_windows_they_stand_in(rule, longest, monkeypatch):
    """Of some windows several documents, and documents over several windows."""
    monkeypatch.setattr(text, "_BLOCK", 160)
    monkeypatch.setattr(text, "_STEP", 1)
    logp, log_prior = scores(8, 4, 9, 20).astype(np.float32), prior(8)
    read = documents(longest, 175, longest)
    chosen = built(rule, 0.1, 0.9, carry="document")
    found = chosen.mix(logp, log_prior, 175, read)
    flat = logp.reshape(4, 180)[:, :175]
    mean, starts = np.zeros(4), np.flatnonzero(read.begins)
    for start, stop in itertools.pairwise([*starts, 175]):
        alone, weights = chosen.weigh(flat[:, None, start:stop], log_prior)
        np.testing.assert_allclose(found.logp[start:stop], alone[0], atol=1e-6)
        mean += weights[:, 0].sum(axis=1) / 175
    np.testing.assert_allclose(found.mean_posterior, mean, atol=1e-6)
    if rule == "tracking":
        choice = [(0.1, 0.9)]
        (nats,) = tracking.nats_of_choices(logp, log_prior, 175, choice, chosen.ensemble, read)
        assert nats == pytest.approx(found.nats, rel=1e-9)
    with pytest.raises(ValueError, match="carry=document needs the tokens"):
        chosen.mix(logp, log_prior, 175)


@pytest.mark.parametrize("rule", BY_SEQUENCE)
def test_a_window_is_begun_anew_and_its_filling_is_not_read(rule):
    logp, log_prior = scores(8, 4, 9, 20).astype(np.float32), prior(8)
    chosen = built(rule, 0.1, 0.9)
    found = chosen.mix(logp, log_prior, 175)
    spoilt = logp.copy()
    spoilt.reshape(4, 180)[:, 175:] = -99
    assert chosen.mix(spoilt, log_prior, 175).nats == found.nats
    wanted = chosen.weigh(logp, log_prior)[0].reshape(-1)[:175]
    np.testing.assert_allclose(found.logp, wanted, atol=1e-6)


@pytest.mark.parametrize("carry", ["window", "document"])
def test_the_updating_prior_moves_with_the_sequences_before(carry):
    logp, read = scores(12, 4, 5, 20).astype(np.float32), documents(3, 90, 30)
    chosen = built("bayes", prior="updating", carry=carry)
    found = chosen.mix(logp, posterior.uniform_prior(4), 90, read)
    flat, moved = logp.reshape(4, 100)[:, :90], np.full(4, 0.25)
    starts = range(0, 90, 20) if carry == "window" else np.flatnonzero(read.begins)
    for start, stop in itertools.pairwise([*starts, 90]):
        part = flat[:, start:stop].astype(np.float64)
        wanted = posterior.mixture(part, np.log(moved))
        np.testing.assert_allclose(found.logp[start:stop], wanted, atol=1e-6)
        alone = np.exp(posterior.final_posterior(part, posterior.uniform_prior(4)))
        moved = 0.7 * moved + 0.3 * alone


@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_nothing_underflows(alpha):
    """1,024 tokens of which each halves a likelihood 5 times: e^-3548 is no float."""
    logp = np.full((2, 1, 1024), -4.0, np.float32)
    logp[0] -= np.float32(5 * math.log(2))
    logp[0, 0, 700:], logp[1, 0, 700:] = -1.0, -150.0
    log_prior = np.log([0.5, 0.5])
    if not alpha:
        mixed = built("tracking", 0.0, 1.0).weigh(logp, log_prior)[0]
        wanted = posterior.mixture(logp[:, 0], log_prior)
        assert mixed.sum() == pytest.approx(wanted.sum(), abs=1e-6)
    log_w, wanted = log_prior, []
    for logp_E in logp[:, 0].T.astype(np.float64):
        wanted.append(np.logaddexp.reduce(log_w + logp_E))
        log_w = 0.9 * log_w + logp_E
        log_w -= np.logaddexp.reduce(log_w)
        if alpha:
            log_w = np.logaddexp(np.log1p(-alpha) + log_w, np.log(alpha) + log_prior)
    mixed = built("tracking", alpha, 0.9).weigh(logp, log_prior)[0]
    np.testing.assert_allclose(mixed[0], wanted, rtol=1e-6)


def test_a_certain_expert_that_fails_is_not_flattered():
    """The one expert that the last token chose gives the next 1e-100: no clamp may hide it."""
    logp = np.array([[[-1.0, -230.0]], [[-300.0, -1.0]]])
    found = built("last_token").weigh(logp, np.log([0.5, 0.5]))[0][0]
    assert found[1] == pytest.approx(-230.0, abs=1e-9)


@pytest.mark.parametrize("rule", BY_SEQUENCE)
def test_float32_scores_give_the_float64_loss(rule):
    logp, log_prior = scores(9, 16, 40, 64, 3.0).astype(np.float32), prior(9, 16)
    found, _ = built(rule, 0.03, 0.9).weigh(logp, log_prior)
    wanted, _ = built(rule, 0.03, 0.9).weigh(logp.astype(np.float64), log_prior)
    assert found.dtype == np.float64
    assert abs(found.mean() - wanted.mean()) <= 1e-6
    assert found.sum() == pytest.approx(wanted.sum(), rel=1e-6)


@pytest.mark.parametrize("rule", BY_SEQUENCE)
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


class Newest(SequenceRule):
    """An eighth rule: the expert that was best at the last token, and at first the prior."""

    def _weigh(self, logp_EST, log_prior_ES):
        logp_SET = logp_EST.swapaxes(0, 1)
        online = [self.begin(log_prior_E) for log_prior_E in log_prior_ES.T]
        seen = [
            [weights.update(logp_E) for logp_E in logp_ET.T]
            for weights, logp_ET in zip(online, logp_SET, strict=True)
        ]
        return np.array(seen), np.ones(logp_EST.shape) / len(logp_EST)

    def step(self, log_weights_E, logp_E, log_prior_E):
        return np.log(0.9 * (logp_E == logp_E.max()) + 0.1 * np.exp(log_prior_E))


def test_an_eighth_rule_is_one_class(monkeypatch):
    monkeypatch.setitem(RULES, "newest", Newest)
    rng = np.random.default_rng(0)
    turns = np.repeat(rng.integers(0, 4, 20), 16).reshape(10, 32)
    logp = np.where(turns[None] == np.arange(4)[:, None, None], -0.1, -4.0).astype(np.float32)
    names = ["a", "b", "c", "d"]
    read = Text(np.zeros(320, np.int64), np.arange(320) % 160 == 0)
    scored = Scored(names, logp, (320, 999), read)
    nats = {}
    for rule in ("newest", "simple", "bayes"):
        chosen = EnsembleConfig(rule=rule, prior="token", top_k=3)
        found = evaluate.shard_result(scored, names, scored, chosen)
        assert len([share for share in found["mean_posterior"].values() if share]) == 3
        nats[rule] = found["ensemble"]["nats_per_token"]
    assert nats["newest"] < min(nats["simple"], nats["bayes"])
    carried = EnsembleConfig(rule="newest", prior="token", top_k=3, carry="document")
    found = evaluate.shard_result(scored, names, scored, carried)
    assert found["ensemble"]["nats_per_token"] < nats["newest"]  # it begins windows with more


@pytest.mark.parametrize("kind", ["cached", "em", "token"])
@pytest.mark.parametrize("tokens", [61, 75])
def test_a_ragged_last_window_does_not_move_the_prior(kind, tokens):
    """One token would count as much as a window of 20, and its filling too."""
    logp = scores(13, 3, 4, 20).astype(np.float32)
    logp[1, :3] += 0.5
    logp.reshape(3, 80)[0, 60:] = -0.001  # the ragged window, and its filling, favour another
    chosen = EnsembleConfig(prior=kind)
    found = priors.fit_prior(logp, chosen, tokens)
    np.testing.assert_array_equal(found, priors.fit_prior(logp[:, :3], chosen, 60))
    assert found.argmax() == 1


@pytest.mark.parametrize("kind", ["cached", "em", "token"])
def test_filling_moves_no_prior_where_there_is_but_one_window(kind):
    logp = scores(14, 3, 1, 20).astype(np.float32)
    spoilt = logp.copy()
    spoilt[0, 0, 5:] = -0.001
    chosen = EnsembleConfig(prior=kind)
    found, wanted = (priors.fit_prior(x, chosen, 5) for x in (spoilt, logp[:, :, :5]))
    np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=1e-4)
