"""A forest as lm-eval asks a model, against lm-eval's own `hf` model and the ensemble's own words."""

import numpy as np
import pytest

from btm.cli.compose import compose
from btm.config.bench import OWN_TASKS, BenchConfig
from btm.ensemble.generate import Ensemble
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import open_suite
from btm.steps.bench import tasks, text_tasks
from btm.steps.bench.subjects import subject

PROMPT = "In the beginning God created the heavens"


@pytest.fixture(scope="module")
def harness(lm_eval):
    from btm.steps.bench import harness

    return harness


@pytest.fixture(scope="module")
def folder(grown, tmp_path_factory):
    suite, folder = open_suite(grown[0]), tmp_path_factory.mktemp("tasks")
    text_tasks.write(folder, suite, [suite.shard(d, "test") for d in suite.domains()])
    return folder


@pytest.fixture(scope="module")
def model_of(grown, harness):
    forest = Forest(grown[0].forest_root)

    def made(name, *words, **settings):
        config = compose([f"forest={forest.root}", "trainer.device=cpu", *words], "bench")
        return harness.ForestLM(forest, subject(config, forest, name), harness.Settings(**settings))

    return made


@pytest.fixture(scope="module")
def hf(grown, lm_eval):
    from lm_eval.models.huggingface import HFLM

    path = Forest(grown[0].forest_root)["bible"].path
    with tasks.silence():
        return HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=3)


def instances(kind, *asked):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, 0) for each in asked]


def answers(model, kind, *asked):
    with tasks.silence():
        return getattr(model, kind)(instances(kind, *asked))


def evaluated(unit, model, limit):
    """Every answer and every metric of a unit."""
    from lm_eval.evaluator import evaluate

    with tasks.silence():
        found = evaluate(model, dict(unit.loaded), limit=limit, bootstrap_iters=0)
    samples = found["samples"][unit.name]
    given = [answer for sample in samples for answers in sample["resps"] for answer in answers]
    numbers = {
        key: value
        for key, value in found["results"][unit.name].items()
        if "," in key and "stderr" not in key
    }
    return given, numbers


def flat(given):
    """Numbers of answers, side by side; texts are compared as they are."""
    return [x for each in given for x in (each if isinstance(each, tuple) else (each,))]


@pytest.mark.parametrize("name", OWN_TASKS)
def test_one_elm_has_the_numbers_of_hf(folder, model_of, hf, name):
    with tasks.harness(download=False):
        (unit,) = tasks.find([name], BenchConfig(limit=6), folder)
        ours, our_numbers = evaluated(unit, model_of("bible", batch_size=4), 6)
        theirs, their_numbers = evaluated(unit, hf, 6)
    assert len(ours) == unit.requests >= 6
    if name == "btm_next_word":  # as the word stands in the text
        assert all(i.args[1] == f" {i.doc['word']}" for i in unit.loaded["tasks"][name].instances)
    if name == "btm_line_end":
        assert ours == theirs
    else:
        np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-5)
    assert our_numbers.keys() == their_numbers.keys()
    for key, value in our_numbers.items():
        assert value == pytest.approx(their_numbers[key], rel=1e-5), key


def test_and_on_odd_requests_as_well(grown, model_of, hf):
    text = " ".join(f"{i} {PROMPT}" for i in range(100))  # longer than the context
    pairs = [
        (PROMPT, " and the earth"),
        (PROMPT + "  ", "and"),  # spaces go to the continuation
        ("", PROMPT),
        ("", "<|endoftext|> In"),
        (text, " and the earth"),
        (PROMPT, "\n" + text[:600]),
    ]
    ours = model_of("bible", batch_size=2)
    assert ours.max_length == hf.max_length < len(ours.tok_encode(text))
    found, wanted = (answers(model, "loglikelihood", *pairs) for model in (ours, hf))
    np.testing.assert_allclose(flat(found), flat(wanted), rtol=1e-5)
    texts = [(PROMPT,), (text,), (text[:3000],)]
    found, wanted = (answers(model, "loglikelihood_rolling", *texts) for model in (ours, hf))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    prompts = [
        (p, {"until": until, "max_gen_toks": 20})
        for p, until in [
            (PROMPT, ["\n"]),
            (PROMPT, [" "]),
            (text, ["the"]),
            (PROMPT, []),
        ]
    ]
    found, wanted = (answers(model, "generate_until", *prompts) for model in (ours, hf))
    assert found == wanted and all(found)


def test_the_ensemble_scores_as_it_reads(model_of, grown):
    model = model_of("forest", "ensemble=gated")
    assert len(model.subject.members) == 3
    forest = model.forest
    for context, text in [(PROMPT, " and the earth."), ("", PROMPT)]:
        ((logp, _),) = answers(model, "loglikelihood", (context, text))
        ids = model.tok_encode(context + text)
        ids = ids if context else [model.prefix_token_id, *ids]
        scored = len(model.tok_encode(text))
        loaded = {m.name: forest[m.name].load() for m in model.subject.members}
        mixed = Ensemble(loaded, model.subject.log_prior, ids[0], model.subject.ensemble)
        assert mixed.read(ids[1:])[-scored:].sum() == pytest.approx(logp, rel=1e-5)


def test_rules_priors_and_commitments_tell_and_an_ensemble_of_one_is_its_expert(model_of):
    def scored(name, *words):
        return answers(model_of(name, *words), "loglikelihood", (PROMPT, " and the earth."))[0][0]

    alone = scored("bible")
    assert scored("forest", "ensemble.experts=[bible]") == pytest.approx(alone, rel=1e-9)
    ways = {
        "gated": scored("forest"),
        "bayes": scored("forest:bayes"),
        "simple": scored("forest:simple"),
        "committed": scored("forest:bayes", "ensemble.commit=4", "ensemble.top_k=1"),
        "alone": alone,
    }
    assert len({round(each, 4) for each in ways.values()}) == 5, ways
    fitted = model_of("forest:bayes", "domain=bible", "score.max_tokens=1024").subject
    assert fitted.log_prior.argmax() == 0 and np.ptp(fitted.log_prior) > 0.01
    two = model_of("forest:bayes", "domain=bible", "ensemble.top_k=2", "score.max_tokens=1024")
    assert len(two.subject.members) == 2


def test_answers_are_sampled_by_the_seed_and_settings_that_it_has_not_are_refused(model_of):
    sampled = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 12, "until": []}
    first = answers(model_of("forest"), "generate_until", (PROMPT, sampled))
    assert first == answers(model_of("forest"), "generate_until", (PROMPT, sampled))
    assert first != answers(model_of("forest", seed=2), "generate_until", (PROMPT, sampled))
    with pytest.raises(UserError, match="asks for generation with num_beams; known are do_sample"):
        answers(model_of("bible"), "generate_until", (PROMPT, {"num_beams": 4}))
    with pytest.raises(
        UserError, match=r"answers of 1,024 tokens \(max_gen_toks\) and the context"
    ):
        answers(model_of("bible"), "generate_until", (PROMPT, {"max_gen_toks": 1024}))


def test_what_cannot_be_scored_is_told_of(model_of):
    with pytest.raises(UserError, match="the continuation '' that a task asks for is part of"):
        answers(model_of("bible"), "loglikelihood", (PROMPT, ""))
    with pytest.raises(UserError, match=r"a continuation of \d+ tokens is longer than the context"):
        answers(model_of("bible", context=8), "loglikelihood", (PROMPT, PROMPT * 3))
    with pytest.raises(
        UserError, match=r"bench\.context=4096: bible has positions for 1024 tokens"
    ):
        model_of("bible", context=4096)
    with pytest.raises(UserError, match="a chat template was asked for"):
        model_of("bible").apply_chat_template([])
