"""The bench of forests of languages, at the smallest size: two languages, and one that comes late."""

import csv
import json
import re

import pytest
from folders import ROOT

from bench import languages
from btm.data.documents import read

RESULTS = ROOT / "docs" / "results" / "roots"
PAGE = (ROOT / "docs" / "languages.md").read_text().replace("**", "")
DEMO = ROOT / "btm" / "data" / "demo"


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The options of a run on the demo's Bibles, in Spanish and English, and its speeches."""
    root = tmp_path_factory.mktemp("languages")
    for name, source in (("en", "bible"), ("es", "spanish"), ("late", "speeches")):
        (root / "text" / name).mkdir(parents=True)
        for split in ("train", "valid", "test"):
            texts = list(read(DEMO / source / f"{split}.jsonl.zst", "text"))[:8]
            lines = "".join(json.dumps({"text": text[:2000]}) + "\n" for text in texts)
            (root / "text" / name / f"{split}.jsonl").write_text(lines)
    words = f"""
        model.config.hidden_size=16 model.config.n_layer=1
        --text {root / "text"} --out {root / "out"} --part branches forest identify
        --languages en es --late late --sizes 4096 --steps 1 --vocab-size 300 --held-out 512 --test 512
        --tokens 128 --methods scratch posterior --baselines
    """
    return languages.parse(words.split())


def rows_of(folder, part):
    return list(csv.DictReader((folder / f"{part}.csv").read_text().splitlines()))


def test_the_page_says_how_late_languages_fared():
    rows = rows_of(RESULTS, "branches")
    for size in {row["train_bytes"] for row in rows}:
        found = {row["method"]: row["bits_per_byte"] for row in rows if row["train_bytes"] == size}
        said = " | ".join(f"{float(found[method]):.3f}" for method in languages.METHODS)
        assert re.search(rf"^\| {int(size) / 1000:.0f} .*\| {said} \|$", PAGE, re.MULTILINE)


def test_the_page_says_how_the_forest_fared():
    rows = rows_of(RESULTS, "forest")
    for language in {row["language"] for row in rows}:
        found = [float(row["bits_per_byte"]) for row in rows if row["language"] == language]
        said = re.search(rf"^\| {language} \|((?: \d\.\d+ \|){{4}})$", PAGE, re.MULTILINE)
        assert [float(bits) for bits in said[1].split("|")[:-1]] == pytest.approx(found, abs=6e-4)


def test_the_page_says_what_was_identified():
    rows = rows_of(RESULTS, "identify")
    for language in {row["language"] for row in rows}:
        own = [row for row in rows if row["language"] == language]
        shares = [f"{int(row[language]) / int(row['texts']):.3f}" for row in own]
        assert f"| {language} | {own[0]['texts']} | {' | '.join(shares)} |" in PAGE


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
    assert "| late | 4 | " in said and "| mean |" in said

    # What stands is not made again.
    made = (options.out / "branches.csv").read_bytes()
    times = {file: file.stat().st_mtime_ns for file in options.out.rglob("*.safetensors")}
    options.part = ["branches"]
    languages.make(options)
    assert (options.out / "branches.csv").read_bytes() == made
    assert {file: file.stat().st_mtime_ns for file in options.out.rglob("*.safetensors")} == times
