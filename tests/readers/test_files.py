"""Files of questions as others write them, and what is wrong with them, in one line."""

import json

import pytest

from btm.cli import main
from btm.errors import UserError
from btm.readers.choices import questions
from btm.readers.spans import squad

SUPPORT = "otter: freshwater mammal with webbed feet. hawk: bird of prey."


def paragraph(context=SUPPORT, question="Which has webbed feet?", text="otter", start=0):
    answers = [{"text": text, "answer_start": start}]
    asked = {"id": "q1", "question": question, "answers": answers}
    return {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [asked]}]}]}


def jack(text="otter", span=(0, 5), candidates=()):
    answer = {"text": text, "span": span} if span else {"text": text}
    asked = {"question": {"text": "Which swims?", "id": "q1"}, "answers": [answer]}
    instances = [{"support": [{"text": SUPPORT}], "questions": [asked]}]
    return {
        "globals": {"candidates": [{"text": each} for each in candidates]},
        "instances": instances,
    }


def test_both_formats_say_the_same(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(paragraph(), indent=1))
    (tmp_path / "dev.json").write_text(json.dumps(jack()))
    (train,), (valid,) = squad.read(tmp_path, "train"), squad.read(tmp_path, "valid")
    assert train.answers == valid.answers and train.setting.support == valid.setting.support
    assert squad.read(tmp_path, "test") == []


def test_a_question_without_an_answer(tmp_path):
    value = paragraph()
    value["data"][0]["paragraphs"][0]["qas"][0] |= {"answers": [], "is_impossible": True}
    (tmp_path / "train.json").write_text(json.dumps(value))
    assert squad.read(tmp_path, "train")[0].answers == ()


def test_inference_of_snli_and_of_jack(tmp_path):
    labels = list(questions.LABELS)
    row = {"sentence1": "A dog runs.", "sentence2": "It moves.", "gold_label": "entailment"}
    rows = [row, row | {"gold_label": "-"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.json").write_text(json.dumps(jack("neutral", None, labels)))
    (one,) = questions.inference(tmp_path, "train")
    assert one.setting.support == ("A dog runs.",) and one.answers[0].text == "entailment"
    (other,) = questions.inference(tmp_path, "test")
    assert other.setting.candidates == tuple(labels)


@pytest.mark.parametrize(
    ("read", "file", "content", "said"),
    [
        (squad.read, "train.json", paragraph(context=" "), ":1: the support of .* is empty"),
        (squad.read, "train.json", paragraph(start=3), ":1: the answer 'otter' .* found 'er: f'"),
        (squad.read, "train.json", paragraph(question="x" * (10 << 20)), ":1: .* 10,485,760"),
        (squad.read, "train.json", {"data": [{}]}, "not SQuAD's format"),
        (squad.read, "train.json", [1], ":1: wanted a JSON object"),
        (squad.read, "train.json", jack(span=(9, 12)), ":1: the answer 'otter' .* does not stand"),
        (squad.read, "train.json", {"instances": [{}]}, "not the format of Jack"),
        (questions.inference, "train.json", jack("no", None, ["a"]), "none of the candidates"),
        (questions.inference, "train.jsonl", {"premise": ""}, ":1: (premise|hypothesis): wanted"),
        (
            questions.inference,
            "train.jsonl",
            {"premise": "a", "hypothesis": "b", "label": "x"},
            ":1: the answer 'x' is none",
        ),
        (questions.choices, "train.jsonl", {"choices": ["a", "a"]}, ":1: choices: wanted two"),
        (questions.choices, "train.jsonl", {"choices": ["a", "b"], "answer": 2}, ":1: answer: "),
    ],
)
def test_a_mistake_names_its_file_and_line(tmp_path, read, file, content, said):
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path, "train")
    assert str(caught.value).startswith(str(tmp_path / file)) and "\n" not in str(caught.value)


def test_a_mistake_far_down_names_its_line(tmp_path):
    value = paragraph()
    value["data"][0]["paragraphs"] += paragraph(question="Which flies?", start=2)["data"][0][
        "paragraphs"
    ]
    (tmp_path / "train.json").write_text(json.dumps(value, indent=1))
    line = json.dumps(value, indent=1)[: json.dumps(value, indent=1).index("Which flies?")]
    with pytest.raises(UserError, match=rf"train.json:{line.count(chr(10)) + 1}: the answer"):
        squad.read(tmp_path, "train")
    (tmp_path / "train.json").write_text('{"data":\n [}')
    with pytest.raises(UserError, match=r"train.json:2: not JSON"):
        squad.read(tmp_path, "train")


@pytest.mark.slow
def test_a_bad_file_ends_the_command_with_2(copy, tmp_path, capsys):
    (tmp_path / "train.json").write_text(json.dumps(paragraph(start=3)))
    words = [f"forest={copy().forest_root}", "reader=extractive_qa", f"reader.data={tmp_path}"]
    assert main.main(["read", "train", *words, "on=forest"]) == 2
    said = capsys.readouterr().err.strip()
    assert "train.json:1: the answer 'otter'" in said and "\n" not in said
