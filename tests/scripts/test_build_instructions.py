"""Prompted data of the demo's text: what is held out is, and the same text gives the same bytes."""

import json
import re

import build_instructions


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def asks(template, text):
    """Whether a text was made of a template."""
    parts = re.split(r"\{\w+\}", template)
    return re.fullmatch(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


def test_templates_a_task_and_test_text_are_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(build_instructions, "SPLITS", ("train", "test"))
    words = ["--most", "60", "--questions", "8", "--out"]
    for name in ("one", "two"):
        build_instructions.main([*words, str(tmp_path / name)])
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    for file in files:
        one, two = ((tmp_path / name / file).read_text() for name in ("one", "two"))
        assert one.replace("/one/", "/two/") == two  # a YAML file has the place of its questions

    train = [row["prompt"] for row in lines(tmp_path / "one/instruct/train.jsonl")]
    assert len(train) == 60 * 4
    for task in build_instructions.TASKS:
        used = [any(asks(each, prompt) for prompt in train) for each in task.templates]
        assert used == [task.trained] * 3 + [False]
        for number in (0, 3):
            for question in lines(tmp_path / f"one/tasks/{task.name}_{number}.jsonl"):
                assert asks(task.templates[number], question["context"])
                assert 0 <= question["answer"] < len(question["choices"])
                assert question["context"] not in train
