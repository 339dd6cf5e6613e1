"""The five tasks that are made of a forest's own test text."""

import json

import pytest
import yaml

from btm import steps
from btm.config.bench import OWN_TAG, OWN_TASKS
from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError
from btm.steps.bench import text_tasks


@pytest.fixture(scope="module")
def suite(grown):
    return steps.open_suite(grown[0])


@pytest.fixture(scope="module")
def shards(suite):
    return [suite.shard(domain, "test") for domain in suite.domains()]


@pytest.fixture(scope="module")
def made(suite, shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    assert text_tasks.write(folder, suite, shards) == list(OWN_TASKS)
    return folder


def questions(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def documents(suite, shards):
    tokenizer = load_tokenizer(suite.tokenizer)
    return {
        shard.domain: tokenizer.decode(shard.tokens.tolist(), skip_special_tokens=True)
        for shard in shards
    }


def test_the_same_text_gives_the_same_bytes_and_what_stands_is_left_alone(made, suite, shards):
    before = {file.name: (file.read_bytes(), file.stat().st_ino) for file in made.iterdir()}
    text_tasks.write(made, suite, shards)
    assert before == {f.name: (f.read_bytes(), f.stat().st_ino) for f in made.iterdir()}
    (made / "btm_next.jsonl").write_text("damaged")
    text_tasks.write(made, suite, shards)
    assert (made / "btm_next.jsonl").read_bytes() == before["btm_next.jsonl"][0]
    assert len(before) == 10


def test_every_question_is_of_test_text(made, documents):
    for row in questions(made, "btm_rolling"):
        assert row["text"] in documents[row["domain"]]
    for name in ("btm_next_word", "btm_line_end"):
        for row in questions(made, name):
            assert f"{row['context']} {row['word']}" in documents[row["domain"]]
    for row in questions(made, "btm_order"):
        assert row["right"] in documents[row["domain"]]
        assert row["exchanged"] not in documents[row["domain"]]
    for row in questions(made, "btm_next"):
        text, right = documents[row["domain"]], row["choices"][row["answer"]]
        assert row["context"] + right in text
        others = [c for i, c in enumerate(row["choices"]) if i != row["answer"]]
        assert all(other.strip() in text for other in others)
        assert not any(row["context"] + other in text for other in others)


def test_the_first_questions_are_of_all_domains_and_answers_stand_everywhere(made, suite):
    rows = questions(made, "btm_next")
    assert {row["domain"] for row in rows[:8]} == set(suite.domains())
    assert {row["answer"] for row in rows} == {0, 1, 2, 3}


def test_lm_eval_is_told_where_the_text_is_from(made, shards):
    for name in OWN_TASKS:
        told = yaml.safe_load((made / f"{name}.yaml").read_text())
        assert told["task"] == name and told["tag"] == OWN_TAG
        assert told["metadata"]["text"] == {s.domain: s.sha256[:16] for s in shards}
        assert told["dataset_kwargs"]["data_files"]["test"] == str(made / f"{name}.jsonl")


def test_text_in_which_nothing_can_be_asked_is_told_of(tmp_path, suite, shards, monkeypatch):
    monkeypatch.setattr(text_tasks, "_documents", lambda shard, tokenizer: iter(["too short"]))
    with pytest.raises(UserError, match="btm_rolling: nothing can be asked of the test text of"):
        text_tasks.write(tmp_path, suite, shards)
    assert not list(tmp_path.iterdir())
