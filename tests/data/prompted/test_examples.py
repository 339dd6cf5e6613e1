"""Rows of prompted data: what they mean, and what is refused, in one line with its place."""

import json
from dataclasses import replace

import pytest
import questions

from btm.cli.compose import compose
from btm.config.data import DataConfig, check_data
from btm.data.prepare import prepare
from btm.data.prompted.examples import examples_of, plain
from btm.data.prompted.reader import reader
from btm.errors import UserError

SENTENCE, OTHER = questions.sentences(n=2)
ASK = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "They."}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that reads a row."""
    return reader(DataConfig(format="prompted"), tmp_path_factory.mktemp("none")).written


def test_a_completion_is_an_answer(written):
    (found,) = examples_of(written(questions.completion(SENTENCE)))
    first, second = questions.halves(SENTENCE)
    assert found.segments == ((f"Go on: {first}", False), (second, True))
    assert found.weight == 1 and not found.is_chat
    assert found.answer_bytes() == len(second.encode())


def test_completions_are_examples_with_weights(written):
    row = questions.weighted(SENTENCE, OTHER)
    text = written(row | {"weight": 2})
    found = examples_of(text)
    assert [each.weight for each in found] == [1.5, 0.5]
    assert [each.segments[1][0] for each in found] == [a["text"] for a in row["completions"]]
    assert plain(text).count(row["prompt"]) == 1  # a tokenizer learns the prompt once


def test_a_conversation_is_cut_around_each_answer(written):
    row = questions.talk(SENTENCE, OTHER)
    (found,) = examples_of(written(row))
    said = [each["content"] for each in row["messages"]]
    end = "<|endoftext|>"
    assert found.is_chat
    assert [flag for _, flag in found.segments] == [False, True, False, True]
    assert [text for text, flag in found.segments if flag] == [said[2] + end, said[4] + end]
    assert found.text.startswith("<|system|>\nGo on.\n<|user|>\n")
    # What stands before an answer is what a model is given to answer.
    assert found.segments[2][0] == f"\n<|user|>\n{said[3]}\n<|assistant|>\n"


BAD = {
    '{"prompt": "Who?"}': "no answer: wanted 'completion' or 'completions', found none",
    '{"prompt": "Who?", "completion": " "}': "'completion' is blank",
    '{"prompt": "Who?", "completion": 4}': "'completion' is a number, no text",
    '{"prompt": "", "completion": "They."}': "'prompt' is blank",
    '{"prompt": "Who?", "completions": []}': "no answer: 'completions' is no list, or empty",
    '{"prompt": "Who?", "completion": "a", "completions": ["b"]}': "found both",
    '{"prompt": "Who?", "completions": [{"text": "a", "weight": 0}]}': "a number above 0 is wanted",
    '{"prompt": "Who?", "completions": [{"text": "a", "weight": "b"}]}': "is no number",
    '{"prompt": "Who?", "completion": "a", "weight": NaN}': "a number above 0 is wanted",
    '{"text": "They."}': 'has the fields text: wanted {"prompt": …',
    '{"prompt": "Who?", "messages": []}': "has both 'messages' and 'prompt'",
    '{"messages": []}': "'messages' is empty",
    '{"messages": "Who?"}': "'messages' is no list",
    '{"messages": ["Who?"]}': "message 1 has the role None",
    json.dumps({"messages": [ASK]}): "the last message is of the role 'user': there is no answer",
    json.dumps({"messages": [ANSWER]}): "message 1 is of the role 'assistant', where 'user' is due",
    json.dumps({"messages": [ASK, ASK]}): "where 'assistant' is due",
    json.dumps({"messages": [ASK, ANSWER, {"role": "system", "content": "x"}]}): "'user' is due",
    json.dumps({"messages": [ASK | {"role": "bot"}]}): "has the role 'bot', not system, user",
    json.dumps({"messages": [ASK | {"content": None}]}): "'content of message 1' is null",
    json.dumps({"messages": [ASK, ANSWER | {"content": "a<|endoftext|>"}]}): "a special token",
    "[1]": "a JSON array",
    "{": "no JSON",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_refused_in_one_line_with_its_place(tmp_path, line):
    file = questions.write(tmp_path / "texts" / "qa.jsonl", questions.rows()[:3])
    with file.open("a") as handle:
        handle.write(f"{line}\n")
    config = DataConfig("p", str(tmp_path / "texts"), format="prompted", out=str(tmp_path / "out"))
    with pytest.raises(UserError) as told:
        prepare(replace(config, max_tokens=64))
    said = str(told.value)
    assert said.startswith(f"{file}:4: ") and BAD[line] in said and "\n" not in said
    assert "data.on_error=skip" in said
    assert not (tmp_path / "out" / "p" / "qa").exists()


def test_a_template_that_raises_is_named_with_the_row(tmp_path):
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    file = questions.write(tmp_path / "texts" / "qa.jsonl", questions.rows()[80:])
    config = DataConfig("p", str(tmp_path / "texts"), format="prompted", out=str(tmp_path / "out"))
    config = replace(config, chat_template=str(template), max_tokens=64)
    with pytest.raises(UserError, match=r"qa.jsonl:11: the chat template raises: no system"):
        prepare(config)
    template.write_text("{% for m in messages %}")
    with pytest.raises(UserError, match=r"strict.jinja:1: no template"):
        prepare(config)
    template.write_text("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match=f"{file}:11: the chat template writes what stands before"):
        prepare(config)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        prepare(replace(config, chat_template=str(tmp_path / "none.jinja")))


def test_other_files_than_json_are_refused(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "qa.txt").write_text("Who? They.")
    config = DataConfig("p", str(tmp_path / "texts"), format="prompted", out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"qa.txt: no JSON, which prompted data is"):
        prepare(replace(config, max_tokens=64))


@pytest.mark.parametrize(
    "words",
    [
        {"loss_on": "all"},
        {"max_tokens": 9},
        {"truncate": "right"},
        {"chat_template": "x"},
        {"format": "prompted", "root": "texts", "text_column": "body"},
        {"format": "prompted", "root": "texts", "max_tokens": 1},
        {"format": "rows"},
    ],
)
def test_keys_without_effect_are_refused(words):
    with pytest.raises(UserError, match="data"):
        check_data(DataConfig(**words))


def test_the_suite_that_ships_is_no_prompted_data():
    with pytest.raises(UserError, match="the suite that ships with btm is text"):
        compose(["data.format=prompted"])
