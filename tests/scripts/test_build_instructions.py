"""Prompted data of the demo's text: what is held out is, and the same text gives the same bytes."""

import json
import re

import pytest

import build_instructions
from suites.prompts import OF_READERS, TASKS
from suites.prompts_by_language import ASKED, PROGRAMS, WORDINGS, tasks_in


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
    for task in TASKS:
        used = [any(asks(each, prompt) for prompt in train) for each in task.templates]
        assert used == [task.trained] * 3 + [False]
        for number in (0, 3):
            for question in lines(tmp_path / f"one/tasks/{task.name}_{number}.jsonl"):
                assert asks(task.templates[number], question["context"])
                assert 0 <= question["answer"] < len(question["choices"])
                assert question["context"] not in train


def write_rows(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_inference_is_trained_on_and_sentiment_is_held_out(tmp_path):
    for split in ("train", "valid", "test"):
        labels = ("entailment", "neutral", "contradiction")
        pairs = [
            {"premise": f"{split} {n}.", "hypothesis": "It is.", "label": label}
            for n, label in enumerate(labels)
        ]
        write_rows(tmp_path / "readers/nli" / f"{split}.jsonl", pairs)
        choices = ["negative", "positive"]
        reviews = [
            {"support": "x" * length, "choices": choices, "answer": 1} for length in (9, 161)
        ]
        write_rows(tmp_path / "readers/sentiment" / f"{split}.jsonl", reviews)
    words = ["--most", "9", "--questions", "9", "--out", str(tmp_path / "out")]
    build_instructions.main([*words, "--readers", str(tmp_path / "readers")])
    train = lines(tmp_path / "out/instruct/train.jsonl")
    assert len(train) == 9 * 4 + 3
    nli, sentiment = OF_READERS
    found = [row for row in train if any(asks(each, row["prompt"]) for each in nli.templates)]
    assert {row["completion"] for row in found} == {" yes", " maybe", " no"}
    assert not any(asks(each, row["prompt"]) for each in sentiment.templates for row in train)
    [question] = lines(tmp_path / "out/tasks/sentiment_3.jsonl")  # the longer review is left out
    assert question["answer"] == 1 and question["choices"] == ["negative", "positive"]


@pytest.mark.parametrize("language", ASKED)
def test_a_language_has_its_own_words(language, tmp_path):
    texts = {
        name: f"{name} writes words of letters and some numbers, 1 2 3. "
        for name in (*ASKED, *PROGRAMS)
    }
    for name, text in texts.items():
        for split in ("train", "valid", "test"):
            write_rows(tmp_path / "roots" / name / f"{split}.jsonl", [{"text": text * 9}] * 3)
    words = ["--most", "30", "--questions", "9", "--out", str(tmp_path / "out")]
    build_instructions.main([*words, "--language", language, "--roots", str(tmp_path / "roots")])
    train = lines(tmp_path / "out/instruct/train.jsonl")
    for task in tasks_in(language):
        used = [any(asks(each, row["prompt"]) for row in train) for each in task.templates]
        assert used == [task.trained] * 3 + [False]
    wording = WORDINGS[language]
    answers = {row["completion"].strip() for row in train}
    assert answers >= {*wording.names, *wording.forms}
    which = lines(tmp_path / "out/tasks/which_3.jsonl")
    for question in which:
        assert question["choices"] == list(wording.names)
        shown = next(name for name in ASKED if f"{name} writes" in question["context"])
        assert question["answer"] == ASKED.index(shown)
    # Each language puts every question in words of its own.
    others = {each for other in ASKED if other != language for each in WORDINGS[other].which}
    assert not others & {*wording.which}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--readers", "nowhere"],
            "no nowhere/nli/train.jsonl; build it: python scripts/build_corpora.py",
        ),
        (["--language", "es", "--roots", "nowhere"], "no nowhere/en/train.jsonl; build it"),
        (["--language", "es", "--readers", "x"], "--readers is in English: it has no --language"),
    ],
)
def test_a_suite_that_is_not_there(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        build_instructions.main([*words, "--out", "made"])
    assert stopped.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
