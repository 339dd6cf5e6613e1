"""The benches of prompted data, at the smallest size: a model of random parameters."""

import csv
from collections import Counter

import pytest
import readers_suite
from folders import ROOT
from interop.models import make_folder

from bench import instructions, instructions_by_language, languages
from btm.data.documents import read
from btm.data.tokenizer import train_tokenizer
from btm.errors import UserError
from btm.forest import Forest

DEMO = ROOT / "btm" / "data" / "demo"


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_page_has_the_table_of_languages():
    rows = rows_of(ROOT / "docs/results/roots/instructions.csv")
    for row in rows:
        row["template"] = int(row["template"])
        row |= {
            k: float(v) for k, v in row.items() if k == "own expert" or k.startswith("instruct")
        }
    page = (ROOT / "docs/instructions.md").read_text().splitlines()
    lines = list(instructions_by_language.show(rows))
    assert len(lines) == 7 and {*lines} <= {*page}


def test_the_usual_answer_needs_no_reading():
    answers = Counter({"yes": 5, "no": 3, "animal": 1, "plant": 1})
    question = {"choices": ["no", "yes"], "answer": 0}
    assert instructions.usual(question, answers) == 0
    assert instructions.usual(question | {"answer": 1}, answers) == 1
    assert instructions.usual({"choices": ["plant", "animal"], "answer": 0}, answers) == 0.5
    unknown = {"choices": ["Go", "Tcl", "Lisp", "plant"], "answer": 0}
    assert instructions.usual(unknown, answers) == 0
    assert instructions.usual(unknown, Counter()) == 0.25


def test_the_average_that_costs_one_domain_too_much_is_not_chosen():
    """The domains' mean would allow it."""
    even = dict.fromkeys(instructions.DOMAINS, 2.0)
    first = instructions.DOMAINS[0]
    found = {
        0.4: even | {first: 2.01},
        0.5: even | {first: 2.04},
        0.6: dict.fromkeys(even, 1.0) | {first: 2.2},
    }
    rows = [
        {"model": f"average {weight}", "weight": weight, **instructions.distance(losses, even)}
        for weight, losses in found.items()
    ]
    assert instructions.of_largest_weight(rows, 0.05) == "average 0.5"
    assert rows[2]["over seed"] < 0 and rows[2]["most over"] == pytest.approx(0.2)
    with pytest.raises(UserError, match="no average stays near the seed"):
        instructions.of_largest_weight(rows, 0.0)


@pytest.mark.slow
def test_a_pretrained_model_is_instructed(tmp_path, capsys):
    readers = tmp_path / "readers"
    readers_suite.write(readers)
    train_tokenizer(
        ["in the beginning was the word, and the word was with god"] * 8, tmp_path / "t", 320
    )
    model = make_folder(tmp_path / "model", tmp_path / "t", max_position_embeddings=512)
    words = f"""
        --model {model} --readers {readers} --out {tmp_path / "out"} --averages 0.5 --windows 1
        --questions 1 --held-out 2 trainer.steps=1 trainer.batch_size=2 trainer.micro_batch_size=2
    """
    options = instructions.parse(words.split())
    instructions.make(options)

    rows = rows_of(options.out / "losses.csv")
    losses = {row["model"]: row for row in rows if row["split"] == "valid"}
    assert list(losses) == ["seed", "instruct-50", "instruct"]
    assert [row["model"] for row in rows if row["split"] == "test"] == ["seed", "instruct-50"]
    assert float(losses["seed"]["over seed"]) == 0
    asked = rows_of(options.out / "instructions.csv")
    assert [(row["task"], row["template"]) for row in asked if row["trained"] == "False"] == [
        *(
            ("language", "1"),
            ("language", "4"),
            ("sentiment", "1"),
            ("sentiment", "4"),
            ("language", "mean"),
            ("sentiment", "mean"),
            ("mean", "mean"),
        ),
    ]
    assert {row["template"] for row in asked if row["trained"] == "True"} == {"4", "mean"}
    assert all(0 <= float(row["instruct"]) <= 1 for row in asked)
    printed = capsys.readouterr().out
    assert (
        f"| language, first template | 0.250 | 0.250 | {float(asked[0]['seed']):.3f} |" in printed
    )
    assert (options.out / "instructions.png").read_bytes().startswith(b"\x89PNG")

    # What stands is not made again, and an average that strays is not chosen.
    before = (options.out / "forest" / "elms" / "instruct" / "card.json").stat().st_mtime_ns
    options.allowed = -1.0
    with pytest.raises(UserError, match="no average stays near the seed"):
        instructions.make(options)
    card = options.out / "forest" / "elms" / "instruct" / "card.json"
    assert card.stat().st_mtime_ns == before
    options.words = [*options.words, "trainer.lr=1e-4"]
    with pytest.raises(UserError, match="was made with words"):
        instructions.make(options)


@pytest.mark.slow
def test_languages_are_instructed(tmp_path, capsys):
    sources = {"en": "bible", "es": "spanish", "fr": "spanish", "id": "bible", "pt": "spanish"}
    sources |= dict.fromkeys(("code_c", "code_python", "code_ruby"), "code_python")
    for name, source in sources.items():
        for split in ("train", "valid", "test"):
            texts = list(read(DEMO / source / f"{split}.jsonl.zst", "text"))[:6]
            readers_suite.write_rows(
                tmp_path / "text" / name / f"{split}.jsonl", [{"text": t[:2000]} for t in texts]
            )
    words = f"""
        model.config.hidden_size=16 model.config.n_layer=1 --text {tmp_path / "text"} --out {tmp_path / "grown"}
        --part forest --languages en es --steps 1 --vocab-size 300 --held-out 512 --test 512
    """
    bench = languages.Bench(languages.parse(words.split()), 0)
    _, forest = bench.grown()
    words = f"""
        --forest {forest.root} --roots {tmp_path / "text"} --out {tmp_path / "out"} --languages en es
        --steps 1 --questions 2 trainer.batch_size=2 trainer.compile=never
    """
    options = instructions_by_language.parse(words.split())
    instructions_by_language.make(options)
    asked = rows_of(options.out / "by-language.csv")
    assert [(row["asked in"], row["task"], row["template"]) for row in asked[:5]] == [
        *(("en", "which", "4"), ("en", "form", "4"), ("en", "word", "4")),
        *(("en", "same", "1"), ("en", "same", "4")),
    ]
    assert {row["asked in"] for row in asked} == {"en", "es"}
    assert all(0 <= float(row["instruct-es"]) <= 1 for row in asked)
    assert "| same, fourth template | " in capsys.readouterr().out
    options.steps = 2
    options.languages, both = ["en"], options.languages
    with pytest.raises(UserError, match="wanted two or more"):
        instructions_by_language.make(options)
    options.languages = both
    with pytest.raises(UserError, match="was made with steps 1, not 2"):
        instructions_by_language.make(options)
    own = Forest(options.out / "forest")["instruct-es"].card
    assert list(own.parents) == ["es"] and "instruct-es" not in forest
