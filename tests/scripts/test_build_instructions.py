"""Prompted data of the demo's text: what is held out is, and the same text gives the same bytes."""

import argparse
import itertools
import json
import random
import re

import pytest
import readers_suite

import build_instructions
from build_instructions import DOZENS
from suites.prompts import KINDS, TASKS
from suites.prompts_by_language import ASKED, PROGRAMS, WORDINGS, tasks_in
from suites.prompts_of_text import LANGUAGE, OF_TEXT
from suites.prompts_of_words import OF_WORDS, VERBS
from suites.prompts_rows import read_rows


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


def test_dozens_of_tasks_with_the_suite_readers(tmp_path):
    readers_suite.write(tmp_path / "readers")
    words = ["--most", "40", "--questions", "9", "--out", str(tmp_path / "out")]
    build_instructions.main([*words, "--readers", str(tmp_path / "readers")])
    train = lines(tmp_path / "out/instruct/train.jsonl")
    of_words = {task.name: task for task in OF_WORDS}

    def rows_of(name):
        return [r for r in train if any(asks(t, r["prompt"]) for t in of_words[name].templates)]

    assert {row["completion"] for row in rows_of("nli")} == {" yes", " maybe", " no"}
    assert {row["completion"][1:] for row in rows_of("verb_kind")} <= {*VERBS.values()}
    prompts = {row["prompt"] for row in train}
    for task in DOZENS:
        if not task.trained:
            assert not any(asks(each, prompt) for each in task.templates for prompt in prompts)
        for number in (0, 3):
            asked = lines(tmp_path / f"out/tasks/{task.name}_{number}.jsonl")
            assert asked, task.name
            for question in asked:
                assert question["context"] not in prompts
                assert asks(task.templates[number], question["context"])
                choices = question["choices"]
                assert len(set(choices)) == len(choices) > question["answer"]
    # A passage that goes on has no question: its words are the demo's, in their order.
    templates = [each for task in DOZENS for each in task.templates]
    going_on = [r for r in train if not any(asks(each, r["prompt"]) for each in templates)]
    assert len(going_on) == 80
    source = build_instructions.source_of("train", argparse.Namespace(language=None, readers=None))
    known = " ".join(" ".join(text.split()) for name in KINDS for text in source.texts[name])
    assert all(row["prompt"] + row["completion"] in known for row in going_on)
    [question] = lines(tmp_path / "out/tasks/sentiment_3.jsonl")  # the longer review is left out
    assert question["choices"][question["answer"]] == "positive"
    asked = lines(tmp_path / "out/tasks/reading_3.jsonl")[0]["context"]
    assert "test3: a thing of 3." in asked and "Which is a thing of 3?" in asked


def test_what_is_tested_is_not_trained_on(tmp_path):
    """The readers' sources split WordNet differently, so that a gloss may be in two splits."""
    root = tmp_path / "readers"
    readers_suite.write(root)
    gloss = "a thing that eight words or more are said about"
    for split, category, word in (("train", "noun_food", "one"), ("test", "noun_plant", "two")):
        file = root / "text" / category / f"{split}.jsonl"
        with file.open("a") as handle:
            handle.write(json.dumps({"text": f"{word}, {word}ly: {gloss}"}) + "\n")
    build_instructions.main(["--out", str(tmp_path / "out"), "--readers", str(root)])
    assert gloss in (tmp_path / "out/tasks/means_3.jsonl").read_text()
    for split in ("train", "valid"):
        assert gloss not in (tmp_path / f"out/instruct/{split}.jsonl").read_text()


def test_facts_are_neither_turned_round_nor_offered_as_wrong(tmp_path):
    readers_suite.write(tmp_path)
    names = ("dog", "canine", "animal", "stone", "rock", "thing", "plant")
    (tmp_path / "graphs/entities.tsv").write_text(
        "".join(f"{name}\t{name}\tnoun_animal\twhat a {name} is\n" for name in names)
    )
    kinds = [("dog", "canine"), ("stone", "rock"), ("rock", "thing"), ("plant", "thing")]
    triples = {
        "train": [*((one, "_hypernym", two) for one, two in kinds), ("rock", "_similar_to", "dog")],
        "valid": [("canine", "_hypernym", "animal")],
        "test": [("dog", "_similar_to", "rock")],
    }
    for split, rows in triples.items():
        text = "\n".join("\t".join(row) for row in rows)
        (tmp_path / f"graphs/wn18rr/{split}.txt").write_text(text)
    facts = read_rows(tmp_path, "train")["facts"]
    assert [(fact["head"]["word"], fact["tail"]["word"]) for fact in facts] == kinds
    true = {fact["head"]["word"]: {*fact["true"]} for fact in facts}
    assert true["dog"] == {"canine", "animal"}  # of a triple of another split
    assert true["stone"] == {"rock", "thing"} and true["plant"] == {"thing"}
    [similar] = read_rows(tmp_path, "test")["facts"]
    assert similar["true"] == ["rock"]


@pytest.mark.parametrize("task", [*OF_TEXT, LANGUAGE], ids=lambda task: task.name)
def test_an_answer_stands_in_no_fixed_place(task):
    """With options, a prompt shows all choices, so that none is right by its place alone."""
    source = build_instructions.source_of("test", argparse.Namespace(language=None, readers=None))
    found = list(itertools.islice(task.ask(source, random.Random(0)), 200))
    for question in found:
        assert all(choice in question.fields["options"] for choice in question.choices)
    most = max(len(question.choices) for question in found)
    assert {question.answer for question in found} == {*range(most)}


@pytest.mark.parametrize("language", ASKED)
def test_a_language_has_its_own_words(language, tmp_path):
    texts = {
        name: f"{name} writes words of letters and some numbers, 1 2 3. "
        for name in (*ASKED, *PROGRAMS)
    }
    for name, text in texts.items():
        for split in ("train", "valid", "test"):
            readers_suite.write_rows(
                tmp_path / "roots" / name / f"{split}.jsonl", [{"text": text * 9}] * 3
            )
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
            "no nowhere/nli/train.jsonl; build it: python scripts/build_corpora.py --suite readers",
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
