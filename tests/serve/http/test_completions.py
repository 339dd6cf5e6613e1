"""/v1/completions by OpenAI's own client, against the ensemble and models by themselves."""

from pathlib import Path

import numpy as np
import pytest

from btm.data.tokenizer import load_tokenizer
from btm.ensemble.generate import Ensemble

PROMPT = "In the beginning God created"
NAMES = ["bible", "code_python", "speeches"]


@pytest.fixture(scope="module")
def tokenizer(grown):
    return load_tokenizer(Path(grown[0].forest_root) / "tokenizer")


@pytest.fixture
def greedy(client):
    def greedy(model="forest", prompt=PROMPT, **more):
        return client.completions.create(
            model=model, prompt=prompt, **({"temperature": 0, "max_tokens": 6} | more)
        )

    return greedy


def test_the_models_are_the_ensemble_its_rules_and_each_model(client):
    import openai

    names = [model.id for model in client.models.list()]
    assert {"forest", "forest:gated", "forest:tracking", "seed", *NAMES} <= {*names}
    assert names[0] == "forest"
    assert client.models.retrieve("forest:gated").btm["members"] == NAMES
    with pytest.raises(openai.NotFoundError, match="no model 'law'"):
        client.models.retrieve("law")


def test_a_greedy_answer_is_that_of_the_experts_own_distributions(greedy, forest, tokenizer):
    answer = greedy("bible")
    alone = Ensemble.load(forest, {"bible": 1.0})
    alone.read(tokenizer(PROMPT, add_special_tokens=False).input_ids)
    wanted = list(alone.generate(6, 0.0))
    assert answer.choices[0].text == tokenizer.decode(wanted)
    assert answer.choices[0].finish_reason == "length"
    read = len(tokenizer(PROMPT).input_ids)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, 6)
    assert answer.usage.total_tokens == read + 6
    assert answer.model == "bible" and answer.object == "text_completion"


def test_a_stream_is_the_answer_in_parts_and_counts_its_tokens(client, greedy):
    parts = list(
        client.completions.create(
            model="forest",
            prompt=PROMPT,
            temperature=0,
            max_tokens=6,
            logprobs=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    whole = greedy(logprobs=1)
    assert len(parts) >= 4
    assert "".join(p.choices[0].text for p in parts[:-1]) == whole.choices[0].text
    told = [t for p in parts[:-1] for t in p.choices[0].logprobs.text_offset]
    assert told == whole.choices[0].logprobs.text_offset
    assert parts[-2].choices[0].finish_reason == "length"
    assert parts[-1].choices == [] and parts[-1].usage == whole.usage
    assert len({p.id for p in parts}) == 1


def test_echo_gives_the_prompts_own_log_probabilities(greedy, grown, forest, tokenizer):
    import openai

    answer = greedy(echo=True, logprobs=2, max_tokens=2, extra_body={"btm_posterior": True})
    (choice,) = answer.choices
    ids = tokenizer(PROMPT).input_ids
    mixed = Ensemble.load(forest, ensemble=grown[0].ensemble)
    wanted, weights = [], []
    for token in ids:
        weights.append(mixed.weights)
        wanted += list(mixed.read([token]))
    found = choice.logprobs
    np.testing.assert_allclose(found.token_logprobs[: len(ids)], wanted, atol=1e-4)
    assert len(found.tokens) == len(found.top_logprobs) == len(ids) + 2
    assert choice.text.startswith(PROMPT)
    for token, place in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[place:].startswith(token)
    as_ids = {"return_tokens_as_token_ids": True, "btm_bound": True}
    (named,) = greedy(echo=True, logprobs=2, max_tokens=2, extra_body=as_ids).choices
    assert named.logprobs.tokens[: len(ids)] == [f"token_id:{token}" for token in ids]
    assert all(key.startswith("token_id:") for top in named.logprobs.top_logprobs for key in top)
    assert named.btm_bound == [0.0] * len(named.logprobs.tokens)  # all is known of local members
    with pytest.raises(openai.BadRequestError, match="no effect without logprobs"):
        greedy(extra_body=as_ids)
    assert len(choice.btm_posterior) == len(found.tokens)
    assert choice.btm_posterior[3] == pytest.approx(weights[3], abs=1e-4)
    for likeliest, token in zip(found.top_logprobs, found.tokens, strict=True):
        assert token in likeliest and len(likeliest) in (2, 3)


def test_it_answers_what_the_evaluation_harness_asks(running, tokenizer):
    """lm-evaluation-harness 0.4.13 sends this, and sums token_logprobs[ctxlen:-1]: the one token
    that is written must be told even where it ends the text.
    """
    contexts = [tokenizer(PROMPT).input_ids, tokenizer("def f(x):").input_ids]
    body = {
        "model": "bible",
        "prompt": contexts,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    for bias in ({}, {str(tokenizer.eos_token_id): 100}):
        status, _, found = running.ask("/v1/completions", body | {"logit_bias": bias})
        assert status == 200
        assert [choice["index"] for choice in found["choices"]] == [0, 1]
        for choice, ids in zip(found["choices"], contexts, strict=True):
            told = choice["logprobs"]
            assert len(told["token_logprobs"]) == len(ids) + 1
            for logp, top in zip(told["token_logprobs"], told["top_logprobs"], strict=True):
                assert logp <= max(top.values())
            assert choice["finish_reason"] == ("stop" if bias else "length")


def test_a_start_that_the_client_puts_before_a_text_is_the_one_that_is_there(running, tokenizer):
    ids = tokenizer(PROMPT).input_ids
    body = {"model": "forest", "max_tokens": 0, "echo": True, "logprobs": 0}
    prompts = [ids, [tokenizer.eos_token_id, *ids]]
    _, _, found = running.ask("/v1/completions", body | {"prompt": prompts})
    without, with_it = (choice["logprobs"]["token_logprobs"] for choice in found["choices"])
    assert with_it == [None, *without]
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"] == {
        "prompt_tokens": 2 * len(ids) + 1,
        "completion_tokens": 0,
        "total_tokens": 2 * len(ids) + 1,
    }


def test_prompts_come_in_four_forms(running, tokenizer):
    ids = tokenizer(PROMPT).input_ids
    texts = []
    for prompt in (PROMPT, [PROMPT], ids, [ids]):
        body = {"model": "bible", "prompt": prompt, "max_tokens": 3, "temperature": 0}
        _, _, found = running.ask("/v1/completions", body)
        texts.append(found["choices"][0]["text"])
    assert len(set(texts)) == 1


def test_several_answers_differ_and_a_seed_repeats_them(client):
    def asked(**more):
        answer = client.completions.create(
            model="bible", prompt=[PROMPT, "And"], n=2, max_tokens=4, **more
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        return [choice.text for choice in answer.choices]

    first = asked(seed=7)
    assert first == asked(seed=7)
    assert len(set(first)) > 1
    assert first != asked(seed=8)
    alone = client.completions.create(model="bible", prompt="And", seed=8, max_tokens=4)
    assert alone.choices[0].text == asked(seed=8)[2]


def test_a_stop_string_ends_the_text_and_is_not_told(greedy):
    sampled = {"model": "bible", "temperature": 1, "seed": 5, "max_tokens": 12, "logprobs": 0}
    (whole,) = greedy(**sampled).choices
    new = [t for i, t in enumerate(whole.logprobs.tokens) if t not in whole.logprobs.tokens[:i]]
    stop = next(token for token in new[3:] if whole.text.count(token) == 1)
    (choice,) = greedy(**sampled, stop=["never there", stop]).choices
    assert choice.text == whole.text[: whole.text.index(stop)] != ""
    assert choice.finish_reason == "stop"
    assert choice.logprobs.tokens == whole.logprobs.tokens[: len(choice.logprobs.tokens)]
    assert all(place < len(choice.text) for place in choice.logprobs.text_offset)


def test_an_end_of_text_ends_it_unless_it_is_passed_over(running, tokenizer):
    eos = tokenizer.eos_token_id
    body = {
        "model": "bible",
        "prompt": PROMPT,
        "max_tokens": 3,
        "logprobs": 1,
        "logit_bias": {str(eos): 100},
    }
    _, _, found = running.ask("/v1/completions", body)
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == [tokenizer.eos_token]
    _, _, found = running.ask("/v1/completions", body | {"ignore_eos": True})
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 3


def test_a_bias_decides_which_token_comes(greedy, tokenizer):
    (token,) = tokenizer(" God").input_ids[:1]
    answer = greedy("bible", max_tokens=3, logit_bias={str(token): 100}, logprobs=0)
    assert answer.choices[0].text == tokenizer.decode([token] * 3)
    # What is told is the model's own, before the bias.
    assert min(answer.choices[0].logprobs.token_logprobs) < -0.01


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"max_token": 3}, "max_token", "unknown_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"tools": [{}]}, "tools", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, None, "invalid_value"),
        ({"temperature": 3}, "temperature", "less_than_equal"),
        ({"temperature": True}, "temperature", "float_type"),
        ({"max_tokens": -1}, "max_tokens", "greater_than_equal"),
        ({"max_tokens": 5000}, "max_tokens", "limit_exceeded"),
        ({"n": 17}, "n", "limit_exceeded"),
        ({"logprobs": 21}, "logprobs", "limit_exceeded"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [10**9]}, "prompt", "invalid_token"),
        ({"prompt": [[-1]]}, "prompt", "invalid_token"),
        ({"prompt": "\ud800"}, None, None),
        ({"prompt": ["a"] * 65}, "prompt", "limit_exceeded"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_token"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "less_than_equal"),
        ({"stop": [""]}, "stop.0", "string_too_short"),
        ({"stop": ["a"] * 17}, "stop", "too_long"),
        ({"seed": 1 << 63}, "seed", "less_than"),
        ({"model": "law"}, "model", "model_not_found"),
    ],
)
def test_what_is_not_done_is_refused_by_name(running, more, param, code):
    status, _, found = running.ask("/v1/completions", {"model": "bible", "prompt": "a"} | more)
    assert status == (404 if code == "model_not_found" else 400)
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["type"] == "invalid_request_error"
    if code is not None:
        assert (found["error"]["param"], found["error"]["code"]) == (param, code)


def test_what_asks_for_nothing_is_passed_over(running):
    body = {"model": "bible", "prompt": "a", "max_tokens": 1, "user": "me", "suffix": None}
    body |= {"presence_penalty": 0, "frequency_penalty": 0.0, "best_of": 1, "logprobs": None}
    assert running.ask("/v1/completions", body)[0] == 200


def test_some_experts_answer_by_the_name_of_the_model(client, running):
    found = client.completions.create(
        model="forest[speeches,bible]",
        prompt="In the",
        max_tokens=2,
        extra_body={"btm_posterior": True},
    )
    assert found.model == "forest[bible,speeches]"
    weights = found.choices[0].btm_posterior[0]
    assert set(weights) == {"bible", "speeches"} and sum(weights.values()) == pytest.approx(1)
    alone = running.ask("/v1/score", {"model": "forest[bible]", "prompt": "In the beginning"})[2]
    bible = running.ask("/v1/score", {"model": "bible", "prompt": "In the beginning"})[2]
    assert alone["nats"] == pytest.approx(bible["nats"])
    assert running.ask("/v1/models/forest[bible]")[2]["btm"]["members"] == ["bible"]
    status, _, body = running.ask("/v1/score", {"model": "forest[lwa]", "prompt": ""})
    assert (status, body["error"]["code"]) == (404, "model_not_found")
