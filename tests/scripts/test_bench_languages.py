"""The bench of forests of languages, at the smallest size: two languages, and one that comes late."""

import csv
import json
from argparse import Namespace
from contextlib import suppress

import pytest
from folders import ROOT

from bench import language_tables, language_trees, languages, roots
from btm import steps
from btm.data.documents import read
from btm.errors import UserError
from btm.steps.baselines import ready

RESULTS = ROOT / "docs" / "results" / "roots"
PAGE = (ROOT / "docs" / "languages.md").read_text().replace("**", "")
DEMO = ROOT / "btm" / "data" / "demo"


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The options of a run on the demo's Bibles, in Spanish and English; its speeches stand in for
    Catalan.
    """
    root = tmp_path_factory.mktemp("languages")
    for name, source in (("en", "bible"), ("es", "spanish"), ("ca", "speeches")):
        (root / "text" / name).mkdir(parents=True)
        for split in ("train", "valid", "test"):
            texts = list(read(DEMO / source / f"{split}.jsonl.zst", "text"))[:8]
            lines = "".join(json.dumps({"text": text[:2000]}) + "\n" for text in texts)
            (root / "text" / name / f"{split}.jsonl").write_text(lines)
    words = f"""
        model.config.hidden_size=16 model.config.n_layer=1
        --text {root / "text"} --out {root / "out"} --part branches forest identify
        --languages en es --late ca --sizes 4096 --steps 1 --vocab-size 300 --held-out 512 --test 512
        --tokens 128 --methods scratch posterior --baselines
    """
    return languages.parse(words.split())


def rows_of(folder, part):
    return list(csv.DictReader((folder / f"{part}.csv").read_text().splitlines()))


def numbers_of(folder, part):
    return [{k: number(v) for k, v in row.items()} for row in rows_of(folder, part)]


def test_the_page_has_the_table_of_branches():
    for line in languages.SHOWN["branches"](numbers_of(RESULTS, "branches")):
        assert line in PAGE.splitlines()


@pytest.mark.parametrize(
    ("part", "show"), [("forest", roots.show_forest), ("identify", roots.show_identify)]
)
def test_the_page_has_the_tables_of_the_whole_forest(part, show):
    lines = list(show(numbers_of(RESULTS, part)))
    assert len(lines) > 6 and {*lines} <= {*PAGE.splitlines()}
    assert {*lines} <= {*(RESULTS / "report.md").read_text().splitlines()}


def test_the_page_has_the_table_of_trees():
    rows = numbers_of(RESULTS, "trees")
    late = ["ca", "mr", "kn", "zu"]
    table = list(language_tables.show_trees(rows, late))
    shown = [line for line in table if "*" in line or line.startswith(("| language", "| mean"))]
    assert len(table) == 17 and len(shown) == 7
    assert {*shown} <= {*PAGE.splitlines()}


def number(value):
    """The number that a cell of a CSV is, or the cell."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


@pytest.mark.slow
def test_all_parts_at_the_smallest_size(options, capsys):
    languages.make(options)
    said = capsys.readouterr().out
    branches = {row["method"]: row for row in rows_of(options.out, "branches")}
    assert set(branches) == {"scratch", "posterior"}
    assert branches["scratch"]["parents"] == "seed:1.00"
    assert {*branches["posterior"]["parents"].replace(":", " ").split()[::2]} <= {"en", "es"}
    assert branches["scratch"]["train_bytes"] == branches["posterior"]["train_bytes"] == "4096"
    assert branches["scratch"]["bits_per_byte"] > branches["posterior"]["bits_per_byte"]

    models = {(row["language"], row["model"]) for row in rows_of(options.out, "forest")}
    every = ("seed", "uniform average", "own expert", "forest")
    assert models == {(language, model) for language in ("en", "es") for model in every}

    found = rows_of(options.out, "identify")
    assert len(found) == 4
    assert all(int(row["en"]) + int(row["es"]) == int(row["texts"]) for row in found)
    assert "| ca | 4 | " in said and "| mean |" in said

    # What stands is not made again.
    made = (options.out / "branches.csv").read_bytes()
    times = {file: file.stat().st_mtime_ns for file in options.out.rglob("*.safetensors")}
    options.part = ["branches"]
    languages.make(options)
    assert (options.out / "branches.csv").read_bytes() == made
    assert {file: file.stat().st_mtime_ns for file in options.out.rglob("*.safetensors")} == times

    other = Namespace(**vars(options) | {"steps": 2})
    with pytest.raises(UserError, match="was made with steps 1, not 2"):
        languages.make(other)


@pytest.mark.slow
def test_trees_of_languages(options, capsys):
    words = f"""
        model.config.hidden_size=16 model.config.n_layer=1 --text {options.text}
        --out {options.out.with_name("trees")} --languages en es --late ca --steps 1 --vocab-size 300
        --most 4000 --held-out 256 --test 256 --trees posterior
    """
    asked = language_trees.parse(words.split())
    language_trees.make(asked)
    said = capsys.readouterr().out
    rows = rows_of(asked.out, "trees")
    parents = {row["language"]: {*row["parents"].replace(":", " ").split()[::2]} for row in rows}
    assert parents["en"] <= {"gmw", "roa"} and parents["ca"] <= {"gmw", "roa", "en", "es"}
    assert all(0 < float(row[key]) < 9 for row in rows for key in ("own", "forest"))
    assert "| ca* | " in said and "| mean, late | " in said

    # No text of a family is that of its languages' own experts.
    def texts(*parts):
        return set(read(asked.out.joinpath(*parts, "train.jsonl"), "text"))

    assert texts("families", "roa") and not texts("families", "roa") & texts("text", "es")

    # The other trees have one parent for each language.
    copied = {"family": "roa", "other": "gmw", "flat": "seed"}
    for tree, parent in copied.items():
        grown = language_trees.Tree(languages.Bench(asked, 0), tree)
        assert (grown._parent("ca"), grown._parent("es")) == (parent, parent)

    asked.late = ["zu"]
    with pytest.raises(UserError, match="zu: no language of its family is in --languages"):
        language_trees.make(asked)


@pytest.mark.slow
def test_the_whole_forest(options, tmp_path, capsys):
    config, forest = languages.Bench(options, 0).grown()
    words = [
        *(
            "data=folder",
            f"data.root={config.data.root}",
            "data.name=languages",
            "data.sampling=0.3",
        ),
        *(f"data.out={config.data.out}", "data.vocab_size=300", "model.config.hidden_size=16"),
        *("model.config.n_layer=1", "trainer.steps=1", "trainer.batch_size=4", "run.rounds=[]"),
        *("score.max_tokens=512", "data.workers=1"),
    ]
    asked = roots.parse(["--forests", str(forest.root), "--out", str(tmp_path), *words])
    with pytest.raises(UserError, match="has no dense LM; grow it"):
        roots.make(asked)
    steps.seed(ready(languages.Bench(options, 0).config("baseline=dense")))
    roots.make(asked)
    said = capsys.readouterr().out

    rows = {row["language"]: row for row in rows_of(tmp_path, "forest")}
    assert set(rows) == {"en", "es"} and rows["en"]["family"] == "gmw"
    measured = rows_of(options.out, "forest")
    own = {
        row["language"]: row["bits_per_byte"] for row in measured if row["model"] == "own expert"
    }
    assert {language: row["own expert"] for language, row in rows.items()} == own
    identified = rows_of(tmp_path, "identify")
    assert all(0 <= int(row["right"]) <= int(row["texts"]) for row in identified)
    assert {row["way"] for row in identified} == {"posterior", "n-grams"}
    asked.sampled = [forest.root]
    with pytest.raises(UserError, match="was trained on other tokens than"):
        roots.make(asked)
    asked.forests *= 2
    with pytest.raises(UserError, match="two of --forests have one random seed"):
        roots.make(asked)
    assert (tmp_path / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert (
        (tmp_path / "report.md").read_text().endswith(said[said.index("## ") :].rstrip("\n") + "\n")
    )
    assert "| less | 2 | " in said and "| all | " in said


def test_means_over_random_seeds_and_languages():
    models = dict.fromkeys(roots.MODELS, 2.0)
    rows = [
        {"random seed": seed, "language": name, "train_bytes": size, **models}
        | {"forest": forest, "random_split": split}
        for seed, name, size, forest, split in (
            (0, "es", 2e6, 1.0, 3.0),
            (0, "hi", 2e6, 2.5, 5.0),
            (0, "ca", 2e6, 9.0, 9.0),
            (1, "es", 2e6, 1.5, ""),
            (1, "hi", 2e6, 1.5, ""),
            (1, "ca", 2e6, 9.0, ""),
        )
    ]
    header, _, much, novel = roots.show_forest(rows)
    cells = dict(zip(header.split(" | "), much.split(" | "), strict=True))
    assert cells["forest"] == "1.625 (1.500–1.750)" and cells["random_split"] == "4.000"
    assert much.endswith("| 1, 2 |") and novel.startswith("| novel, in the last round | 1 |")

    said = [
        {
            "language": name,
            "train_bytes": 2e6,
            "tokens": 16,
            "way": way,
            "texts": texts,
            "right": right,
        }
        for name, way, texts, right in (
            ("es", "posterior", 10, 10),
            ("ca", "posterior", 90, 45),
            ("es", "fastText", 10, 5),
        )
    ]
    lines = [line for line in roots.show_identify(said) if line.startswith("| all")]
    assert lines == ["| all | 2 | — | 0.750 |", "| all that fastText has | 1 | 0.500 | 1.000 |"]
