"""Experts that were left out come back: against the procedure in plain Python, and the models."""

import numpy as np
import pytest

from btm.cli.compose import compose
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import generate
from btm.ensemble.commit import Commit
from btm.ensemble.course import Course, follow
from btm.ensemble.rules import RULES, rule_of
from btm.ensemble.text import Text
from btm.errors import UserError

CAN = [name for name in RULES if name != "router"]
NAMES = ["bible", "code_python", "speeches"]
WORDS = {"alpha": 0.1, "beta": 0.9}


def chosen(rule, n, k, **words):
    return rule_of(EnsembleConfig(rule=rule, commit=n, top_k=k, recall=True, **WORDS | words))


def changing(rng, experts=5, tokens=70, every=23):
    """Scores of a text whose best expert is another one every so many tokens."""
    logp_ET = -rng.exponential(3.0, (experts, tokens))
    for t in range(tokens):
        logp_ET[t // every % experts, t] /= 8
    return logp_ET


def mixture(rule, log_prior_E, logp_ET, ids, read, settled, kept):
    """log p of the last token by those `kept`: `read` read all until some were left out."""
    online = rule.begin(log_prior_E[read])
    for t in range(settled):
        online.update(logp_ET[read, t], int(ids[t]))
    online.restrict(np.array([read.index(j) for j in kept]))
    for t in range(settled, len(ids) - 1):
        online.update(logp_ET[kept, t], int(ids[t]))
    return np.log(np.exp(online.log_weights + logp_ET[kept, len(ids) - 1]).sum())


def by_hand(rule, log_prior_E, logp_ET, ids, n, k):
    """One context from the definition: every mixture from the start; (log p, passes, replays)."""
    everyone = list(range(len(logp_ET)))
    read, settled, kept = everyone, 0, everyone
    means, found, passes, replays = {}, [], 0, []

    def best_of(some, t):
        score = {j: log_prior_E[j] + logp_ET[j, max(0, t - n) : t].sum() for j in some}
        return sorted(sorted(some, key=lambda j: (-score[j], j))[:k])

    for t in range(1, len(ids) + 1):
        found.append(mixture(rule, log_prior_E, logp_ET[:, :t], ids[:t], read, settled, kept))
        passes += len(kept)
        again = []
        if len(kept) == len(everyone):
            if t < n or k >= len(everyone):
                continue
        elif t >= 2 * settled and t >= settled + n:
            now = np.log(np.exp(log_prior_E[kept]).sum()) + sum(found[-n:])
            if any(log_prior_E[j] + n * mean > now for j, mean in means.items()):
                again = sorted(means)
        if (len(kept) == len(everyone) or again) and t < len(ids):
            passes += len(again) * t
            replays += [(t, j) for j in again]
            read, settled = sorted([*kept, *again]), t
            kept = best_of(read, t)
            means |= {j: logp_ET[j, :t].mean() for j in read}
            means = {j: mean for j, mean in means.items() if j not in kept}
    return found, passes, replays


@pytest.mark.parametrize("rule", CAN)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 1), (5, 2), (40, 1), (6, 5)])
def test_cached_scores_give_what_the_definition_gives(rule, n, k):
    rng = np.random.default_rng(n)
    logp_ET, ids = changing(rng), rng.integers(0, 9, 70)
    log_prior_E = np.log(rng.dirichlet(np.full(5, 9.0)))
    built = chosen(rule, n, k)
    wanted, passes, replays = by_hand(built, log_prior_E, logp_ET, ids, n, k)
    course = built.course(log_prior_E)
    found_T, log_weights_ET = follow(course, logp_ET, ids)
    np.testing.assert_allclose(found_T, wanted, atol=1e-9)
    np.testing.assert_allclose(np.exp(log_weights_ET).sum(axis=0), 1)
    assert course.reads == passes
    assert bool(replays) == (n in (1, 5, 6) and k < 5)
    assert max((sum(t for t, j in replays if j == i) for i in range(5)), default=0) < 2 * 70


@pytest.mark.parametrize("rule", ["bayes", "gated"])
@pytest.mark.parametrize("carry", ["window", "document"])
def test_a_shard_is_read_context_by_context(rule, carry):
    rng = np.random.default_rng(3)
    tokens, window = 93, 40
    logp_EN = changing(rng, 4, tokens, 17)
    logp_EST = np.zeros((4, 3, window))
    logp_EST.reshape(4, -1)[:, :tokens] = logp_EN
    begins = np.zeros(tokens, bool)
    begins[[0, 7, 50]] = True
    text = Text(rng.integers(0, 9, tokens), begins)
    with np.errstate(divide="ignore"):
        log_prior_E = np.log([0.2, 0.5, 0.0, 0.3])  # one is left out
    kept = [0, 1, 3]
    built = chosen(rule, 4, 1, carry=carry)
    mixed = built.mix(logp_EST, log_prior_E, tokens, text)
    starts = range(0, tokens, window) if carry == "window" else np.flatnonzero(begins)
    wanted, passes = [], 0
    for start, stop in zip(starts, [*starts[1:], tokens], strict=True):
        part = (logp_EN[kept, start:stop], text.ids[start:stop])
        found, run, _ = by_hand(built, log_prior_E[kept], *part, 4, 1)
        wanted, passes = [*wanted, *found], passes + run
    np.testing.assert_allclose(mixed.logp, wanted, atol=1e-9)
    assert mixed.experts_run == pytest.approx(passes / tokens)
    assert mixed.mean_posterior.sum() == pytest.approx(1)
    assert mixed.mean_posterior[2] == 0


def test_it_follows_a_text_that_changes_and_leaves_one_alone_that_does_not():
    rng, ids = np.random.default_rng(0), np.arange(400)
    same_ET = rng.uniform(-5.0, -1.0, (4, 400))
    same_ET[0] = rng.uniform(-1.0, 0.0, 400)
    logp_ET = same_ET.copy()
    logp_ET[[0, 1], 200:] = same_ET[[1, 0], 200:]
    logp_ET[0, 200:] -= 0.5
    log_prior_E = np.log(np.full(4, 0.25))

    def read(recall, scores_ET):
        course = Course(rule_of(EnsembleConfig()).begin, log_prior_E, Commit(16, 1, recall))
        return follow(course, scores_ET, ids)[0].mean(), course

    with_, course = read(True, logp_ET)
    without, _ = read(False, logp_ET)
    assert with_ > without + 1
    assert course.running.tolist() == [1]
    whole, _ = follow(rule_of(EnsembleConfig()).course(log_prior_E), logp_ET, ids)
    assert with_ > whole.mean()  # all experts, weighed by all that went before
    alone, course = read(True, same_ET)
    assert (alone, course.recalls) == (read(False, same_ET)[0], 0)
    assert course.reads == 4 * 16 + 400 - 16


def test_where_all_that_run_are_lost_the_others_are_recalled():
    rng = np.random.default_rng(1)
    logp_ET, ids = changing(rng, 4, 60, 60), rng.integers(0, 9, 60)
    rule = rule_of(EnsembleConfig(rule="gated", commit=8, top_k=1))
    course = rule.course(np.log(np.full(4, 0.25)))
    for t in range(20):
        course.update(logp_ET[course.running, t], int(ids[t]))
    assert course.running.tolist() == [0]
    assert course.lose(0) and course.lose(2)
    assert course.wanted.tolist() == [1, 3]
    with pytest.raises(ValueError, match="are to replay the text first"):
        course.update([0.0], 5)
    course.recall(logp_ET[course.wanted, :20])
    best = max((1, 3), key=lambda j: logp_ET[j, 12:20].sum())
    assert course.running.tolist() == [best]
    assert course.reads == 8 * 4 + 12 + 2 * 20
    assert course.lose(4 - best)
    assert not course.lose(best)


@pytest.mark.parametrize("rule", ["bayes", "tracking", "gated"])
@pytest.mark.parametrize(("n", "k"), [(3, 1), (5, 2)])
def test_generate_gives_what_cached_scores_give(forest, rule, n, k):
    built = chosen(rule, n, k)
    mixed = generate.Ensemble.load(forest, dict.fromkeys(NAMES, 1.0), ensemble=built.ensemble)
    ids = np.random.default_rng(4).integers(5, 300, 60).tolist()
    alone = [generate.Ensemble.load(forest, {name: 1.0}) for name in NAMES]
    logp_ET = np.stack([one.read(ids) for one in alone])
    course = built.course(np.log(np.full(3, 1 / 3)))
    wanted, _ = follow(course, logp_ET, ids)
    found = [mixed.read(ids[:30])]  # several recalls within one pass, and others one by one
    for token in ids[30:]:
        assert np.exp(mixed.next_logp()).sum() == pytest.approx(1, abs=1e-6)
        found.append(mixed.read([token]))
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=1e-5)
    assert course.recalls
    assert len(mixed.models) == k
    held = [j for j, member in mixed._members.items() if member.seen]
    assert held == mixed.running  # the others keep nothing of the text


def test_a_recall_without_a_commitment_is_refused():
    with pytest.raises(UserError, match=r"ensemble.recall=true: nobody is left out"):
        compose(["ensemble.recall=true"])
