"""/v1/chat/completions, /tokenize, /detokenize, /v1/score, and what stands here."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if messages[0].content == 'refuse' %}{{ raise_exception('not this one') }}{% endif %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
HELLO = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]


@pytest.fixture
def chatting(copy, serve):
    """A client of a server whose tokenizer has a chat template."""
    config = copy()
    (Path(config.forest_root) / "tokenizer/chat_template.jinja").write_text(TEMPLATE)
    with serve(config) as running, running.client() as client:
        yield client


@pytest.mark.slow
@pytest.mark.traced
def test_a_chat_is_written_by_the_template_and_answered(chatting):
    import openai

    client = chatting
    asked = {"model": "forest", "temperature": 0, "seed": 1, "max_tokens": 4}
    answer = client.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=2, **asked)
    (choice,) = answer.choices
    written = "system: Be kind.\nuser: Hello\nassistant:"
    plain = client.completions.create(prompt=written, **asked)
    assert choice.message.role == "assistant"
    assert choice.message.content == plain.choices[0].text
    assert answer.usage == plain.usage
    assert len(choice.logprobs.content) == 4
    for token in choice.logprobs.content:
        assert bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) == 2
        assert token.logprob <= token.top_logprobs[0].logprob
    parts = list(client.chat.completions.create(messages=HELLO, stream=True, **asked))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in parts) == choice.message.content
    assert parts[-1].choices[0].finish_reason == "length"
    assert parts[0].object == "chat.completion.chunk"

    part = {"type": "text", "text": "Hello"}
    split = [HELLO[0] | {"role": "developer"}, {"role": "user", "content": [part]}]
    again = client.chat.completions.create(messages=split, **asked)
    assert again.choices[0].message.content == choice.message.content
    refused = [{"role": "user", "content": "refuse"}]
    with pytest.raises(openai.BadRequestError, match="not this one"):
        client.chat.completions.create(messages=refused, **asked)
    picture = {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(messages=[{"role": "user", "content": [picture]}], **asked)


def test_a_forest_without_a_template_says_so(client):
    import openai

    with pytest.raises(openai.BadRequestError, match="has no chat template") as raised:
        client.chat.completions.create(model="forest", messages=HELLO)
    assert raised.value.code == "no_chat_template"


def test_texts_become_tokens_and_texts_again(running):
    text = "In the beginning 世界 \n\tend"
    _, _, found = running.ask("/tokenize", {"prompt": text, "return_token_strs": True})
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert any(word.startswith("bytes:\\x") for word in found["token_strs"])
    _, _, back = running.ask("/detokenize", {"tokens": found["tokens"], "model": "bible"})
    assert back == {"prompt": text}
    _, _, info = running.ask("/tokenizer_info")
    assert info["eos_token"] == "<|endoftext|>"
    _, _, special = running.ask("/tokenize", {"prompt": info["eos_token"]})
    assert special["count"] == 1
    assert running.ask("/detokenize", {"tokens": [-1]})[0] == 400


def test_a_score_is_the_sum_of_its_parts(running):
    _, _, found = running.ask("/v1/score", {"model": "forest", "prompt": "God said", "top": 2})
    count = len(found["ids"])
    assert "".join(found["tokens"]) == found["text"] == "God said"
    assert found["nats"] == pytest.approx(-sum(found["logprobs"]))
    assert found["perplexity"] == pytest.approx(math.exp(found["nats"] / count))
    assert len(found["text_offset"]) == len(found["top_logprobs"]) == count
    members = found["members"]
    assert set(members) == {"bible", "code_python", "speeches"}
    for t in range(count):
        weights = [each["posterior"][t] for each in members.values()]
        assert sum(weights) == pytest.approx(1)
        mixed = sum(
            w * math.exp(each["logprobs"][t])
            for w, each in zip(weights, members.values(), strict=True)
        )
        assert math.log(mixed) == pytest.approx(found["logprobs"][t], abs=1e-5)
    _, _, empty = running.ask("/v1/score", {"model": "bible", "prompt": ""})
    assert empty["ids"] == [] and empty["perplexity"] is None


def test_hidden_states_are_the_models_own(running, forest):
    body = {"model": "bible", "prompt": "God said"}
    _, _, found = running.ask("/v1/hidden_states", body)
    model = forest["bible"].load()
    with torch.inference_mode():
        wanted = model(torch.tensor([found["ids"]]), output_hidden_states=True).hidden_states
    assert found["ids"][0] == model.config.eos_token_id
    np.testing.assert_allclose(found["hidden_states"], wanted[-1][0], atol=1e-5)
    _, _, first = running.ask("/v1/hidden_states", body | {"layer": 0})
    np.testing.assert_allclose(first["hidden_states"], wanted[0][0], atol=1e-6)
    assert forest["bible"].card.sha256 in running.engine.members.loaded()  # no copy of its own
    for more in ({"layer": 99}, {"model": "forest"}, {"prompt": [1] * 1024}):
        assert running.ask("/v1/hidden_states", body | more)[0] == 400


def test_it_tells_of_itself(running):
    assert running.ask("/health")[2] == {"status": "ok"}
    assert running.ask("/ready")[2] == {"status": "ready"}
    running.ask("/v1/completions", {"model": "bible", "prompt": "a", "max_tokens": 2})
    assert running.idle()
    page = running.ask("/metrics")[2].decode()
    assert 'btm_http_requests_total{endpoint="/v1/completions",status="200"}' in page
    assert "btm_running 0.0" in page
    written = next(row for row in page.splitlines() if row.startswith("btm_written_tokens_total"))
    assert float(written.split()[1]) >= 2
