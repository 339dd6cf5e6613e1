"""Continuations that are scored member by member against the ensemble that reads token by token."""

import numpy as np
import pytest

from btm import steps
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import continuations, generate
from btm.ensemble.continuations import Continuation, Mix
from btm.ensemble.rules import RULES, rule_of
from btm.forest import Forest

NAMES = ["bible", "code_python", "speeches"]
PRIOR = np.log([0.2, 0.5, 0.3])


@pytest.fixture(scope="module")
def models(grown):
    forest = Forest(grown[0].forest_root)
    return {name: forest[name].load() for name in NAMES}


@pytest.fixture(scope="module")
def ids(grown):
    return [int(x) for x in steps.open_suite(grown[0]).shard("novels", "test").tokens[:300]]


def mix_of(models, ensemble, prior=PRIOR, batch_size=3):
    rule = rule_of(ensemble)
    loaders = [lambda model=model: model for model in models.values()]
    return Mix(loaders, lambda: rule.course(prior), 512, batch_size)


def reader(models, ensemble, first, prior=PRIOR):
    return generate.Ensemble(models, prior, first, ensemble)


def step_by_step(models, ensemble, text, prior=PRIOR):
    """The sum of log p and whether each token is the likeliest, by the ensemble that generates."""
    mixed = reader(models, ensemble, text.tokens[0], prior)
    mixed.read(text.tokens[1 : len(text.tokens) - text.scored])
    total, greedy = 0.0, True
    for token in text.tokens[-text.scored :]:
        logp_V = mixed.next_logp()
        total += logp_V[token]
        greedy &= int(logp_V.argmax()) == token
        mixed.read([token])
    return total, greedy


def greedily(models, ensemble, context, tokens):
    """The context and the likeliest next tokens, an end of text among them like any other."""
    mixed = reader(models, ensemble, context[0])
    mixed.read(context[1:])
    written = list(context)
    for _ in range(tokens):
        written.append(int(mixed.next_logp().argmax()))
        mixed.read(written[-1:])
    return tuple(written)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "router"])
def test_they_are_what_the_ensemble_says_token_by_token(models, ids, rule):
    ensemble = EnsembleConfig(rule=rule, alpha=0.05, beta=0.9)
    texts = [Continuation(tuple(ids[a : a + n]), n // 3) for a, n in [(0, 30), (40, 9), (60, 61)]]
    texts += [Continuation(tuple(ids[i : i + 5]), 1) for i in (100, 110, 120)]
    greedy = [greedily(models, ensemble, ids[i : i + 12], 6) for i in (150, 170, 200)]
    texts += [Continuation(tokens, 6) for tokens in greedy]
    texts += [Continuation((*tokens[:-1], (tokens[-1] + 1) % 512), 6) for tokens in greedy]
    found = mix_of(models, ensemble).score(texts)
    wanted = [step_by_step(models, ensemble, text) for text in texts]
    np.testing.assert_allclose([x.logp for x in found], [logp for logp, _ in wanted], atol=1e-4)
    assert [x.is_greedy for x in found] == [is_greedy for _, is_greedy in wanted]
    assert {x.is_greedy for x in found} == {True, False}


@pytest.mark.parametrize("recall", [False, True])
def test_experts_that_are_left_behind_count_no_more(models, ids, recall):
    ensemble = EnsembleConfig(rule="bayes", commit=6, top_k=2, recall=recall)
    texts = [Continuation(tuple(ids[i : i + n]), n - 3) for i, n in [(0, 20), (50, 8), (90, 5)]]
    found = mix_of(models, ensemble).score(texts)
    wanted = [step_by_step(models, ensemble, text) for text in texts]
    np.testing.assert_allclose([x.logp for x in found], [logp for logp, _ in wanted], atol=1e-4)
    whole = mix_of(models, EnsembleConfig(rule="bayes")).score(texts)
    assert found[0].logp != pytest.approx(whole[0].logp, abs=1e-6)
    assert found[2].logp == pytest.approx(whole[2].logp)  # over before anyone is left behind


def test_an_ensemble_of_one_is_that_model_and_one_without_weight_is_nobody(models, ids):
    alone = {"bible": models["bible"]}
    ensemble = EnsembleConfig(rule="bayes")
    texts = [Continuation(tuple(ids[i : i + 20]), 4) for i in (0, 30)]
    one = mix_of(alone, ensemble, np.zeros(1)).score(texts)
    wanted = [step_by_step(alone, ensemble, text, np.zeros(1)) for text in texts]
    np.testing.assert_allclose([x.logp for x in one], [logp for logp, _ in wanted], atol=1e-4)
    twice = {"bible": models["bible"], "again": models["bible"]}
    both = mix_of(twice, ensemble, np.log([0.5, 0.5])).score(texts)
    np.testing.assert_allclose([x.logp for x in both], [x.logp for x in one], atol=1e-9)
    assert [x.is_greedy for x in both] == [x.is_greedy for x in one]


def test_choices_after_the_same_context_share_a_pass(models, ids, monkeypatch):
    context = tuple(ids[:20])
    texts = [Continuation((*context, token), 1) for token in ids[30:34]]
    texts += [Continuation((*context, *ids[a : a + 3]), 3) for a in (30, 40)]  # reads on from them
    texts += [Continuation(tuple(ids[5:24]), 2), Continuation(context, 4)]
    rows = []
    model = models["bible"]
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda **words: (rows.append(len(words["input_ids"])), forward(**words))[1],
    )
    told = []
    mix = mix_of({"bible": model}, EnsembleConfig(rule="bayes"), np.zeros(1))
    together = mix.score(texts, told.append)
    assert sum(rows) == 3  # the two long choices, of which one has all that begins like it
    assert sum(told) == sum(len(text.tokens) - 1 for text in texts)
    apart = [each for text in texts for each in mix.score([text])]
    np.testing.assert_allclose([x.logp for x in together], [x.logp for x in apart], atol=1e-5)
    assert [x.is_greedy for x in together] == [x.is_greedy for x in apart]


def test_what_is_mixed_at_once_is_bounded_and_changes_nothing(models, ids, monkeypatch):
    ensemble = EnsembleConfig(rule="simple")
    texts = [
        Continuation(greedily(models, ensemble, ids[i : i + 8], 3), 3) for i in range(0, 60, 6)
    ]
    loads = []
    mix = mix_of(models, ensemble)
    counted = Mix(
        [lambda load=load: (loads.append(1), load())[1] for load in mix.members],
        *(mix.begin, mix.vocabulary, mix.batch_size),
    )
    whole = counted.score(texts)
    at_once = len(loads)
    assert all(x.is_greedy for x in whole)
    assert at_once == 2 * len(NAMES)  # some of them no member alone decides
    monkeypatch.setattr(continuations, "_MIXED", 3 * 512)
    monkeypatch.setattr(continuations, "_LOGITS", 10 * 512)
    found = counted.score(texts)
    assert [x.is_greedy for x in found] == [x.is_greedy for x in whole]
    np.testing.assert_allclose([x.logp for x in found], [x.logp for x in whole], atol=1e-4)
    assert len(loads) - at_once > at_once


def test_something_is_scored_after_something():
    for tokens, scored in [((1,), 1), ((1, 2), 0), ((1, 2), 2)]:
        with pytest.raises(ValueError, match="tokens to score"):
            Continuation(tokens, scored)
