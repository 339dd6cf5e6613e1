"""A folder or a forest without a tokenizer is named in one whole line, with what to do."""

import json

import pytest
from interop.models import make_folder

from btm.cli import main
from btm.forest import Forest

REMEDY = 'AutoTokenizer.from_pretrained("ORG/NAME").save_pretrained("DIR")'


def last_line(words, capsys):
    """The line that a refused command ends with."""
    capsys.readouterr()
    assert main.main(words) == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert [line for line in lines if line.startswith("btm:")] == lines[-1:]
    return lines[-1]


@pytest.fixture(scope="module")
def forest(tokenizer, tmp_path_factory):
    """The words of a forest of one imported model, and its folder."""
    root = tmp_path_factory.mktemp("forest")
    folder = make_folder(root / "model", tokenizer)
    assert main.main(["import", f"from={folder}", f"forest={root / 'forest'}"]) == 0
    return root / "forest"


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({}, "holds no file of a tokenizer; looked for tokenizer.json"),
        ({"tokenizer_config.json": {}}, "holds tokenizer_config.json; looked for tokenizer.json"),
        ({"vocab.json": {"a": 0}}, "no tokenizer can be built of its files: it holds vocab.json"),
    ],
)
def test_a_folder_says_what_it_holds_and_what_is_wanted(left, said, tokenizer, tmp_path, capsys):
    folder = make_folder(tmp_path / "model", tokenizer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    for name, values in left.items():
        (folder / name).write_text(json.dumps(values))
    # Too little text to prepare: the tokenizer is asked for before any is read.
    (tmp_path / "texts/one").mkdir(parents=True)
    (tmp_path / "texts/one/a.txt").write_text("in the beginning\n\n")
    prepare = ["prepare", "data=folder", f"data.root={tmp_path / 'texts'}", "data.name=mine"]
    prepare += [f"data.out={tmp_path / 'data'}", f"data.tokenizer={folder}"]
    for words in (["import", f"from={folder}", f"forest={tmp_path / 'forest'}"], prepare):
        line = last_line(words, capsys)
        assert said in line and line.endswith(f"({REMEDY})")
    assert not (tmp_path / "forest").exists()


def test_a_model_beside_a_forest_says_so_too(forest, tokenizer, tmp_path, capsys):
    folder = make_folder(tmp_path / "model", tokenizer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    words = [f"forest={forest}", "prompt=in", f"ensemble.experts=[{folder}]"]
    line = last_line(["generate", *words], capsys)
    assert f"{folder}: holds no file of a tokenizer; looked for" in line and REMEDY in line


def test_a_forest_that_lost_its_own_says_where_a_copy_is(forest, capsys):
    kept = forest / "tokenizer"
    kept.rename(forest / "away")
    try:
        line = last_line(["generate", f"forest={forest}", "prompt=in"], capsys)
    finally:
        (forest / "away").rename(kept)
    assert line.startswith(f"btm: {kept}: the tokenizer of the forest is gone")
    assert line.endswith(f"(cp {forest / 'elms'}/NAME/*token* {kept}/)")
    assert (Forest(forest)["seed"].path / "tokenizer.json").is_file()
