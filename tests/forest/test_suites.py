"""The prepared text of a forest: one tokenizer, several suites, and a line for each that does not
fit.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from folders import DEMO, tree

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.data import prepare as preparation
from btm.errors import UserError
from btm.forest import Forest, settings


@pytest.fixture(scope="module")
def place(grown, tmp_path_factory):
    """A folder with texts/tcl.txt, a copy of the shared forest, and data/foreign: `bible` under
    another tokenizer.
    """
    place = tmp_path_factory.mktemp("suites")
    shutil.copytree(grown[0].forest_root, place / "forest")
    text = "".join(f"proc name{i} {{}} {{ puts $value{i} }}\n\n" for i in range(400))
    for name in ("texts/tcl.txt", "foreign/bible.txt"):
        (place / name).parent.mkdir()
        (place / name).write_text(text)
    config = compose(["data=folder", f"data.root={place / 'foreign'}", "data.name=foreign"])
    data = replace(config.data, out=str(place / "data"), vocab_size=300)
    preparation.prepare(data)
    return place


@pytest.fixture(scope="module")
def added(place):
    """The words of that forest; data/more beside its own suite has the domain tcl, packed for
    it.
    """
    words = [f"forest={place / 'forest'}"]
    more = [
        "data=folder",
        f"data.root={place / 'texts'}",
        f"data.out={place / 'data'}",
        "data.name=more",
    ]
    steps.prepare(compose([*words, *more], "prepare"))
    return words


def test_text_that_the_forest_holds_out_is_not_trained_on_by_an_addition(grown, place, tmp_path):
    (bible,) = [s for s in preparation.sources(grown[0].data) if s.domain == "bible"]
    old = [text for split, text in bible.documents("text") if split == "test"]
    new = [f"proc other{i} {{}} {{ puts {i} }}" for i in range(40)]
    lines = [json.dumps({"text": text}) + "\n" for text in [*old, *new]]
    (tmp_path / "added.jsonl").write_text("".join(lines))
    shutil.copytree(grown[0].data.out, tmp_path / "data")
    shutil.copytree(place / "forest", tmp_path / "forest")
    words = [f"forest={tmp_path / 'forest'}", f"data.out={tmp_path / 'data'}"]
    steps.prepare(compose(words, "prepare"))  # the forest now knows where its suite lies
    grow = [*words, "domain=added", f"from={tmp_path / 'added.jsonl'}"]
    suite = steps.prepare(steps.text_of(compose(grow, "grow")))
    splits = suite.metas["added"]["splits"]
    assert sum(split["documents"] for split in splits.values()) == len(new)
    found = sum(sum(split.get("found_in", {}).values()) for split in splits.values())
    assert found == len(set(old))


def refusal(capsys, *words):
    assert main.main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    "verb",
    [
        ["run", "run.domains=[bible]"],
        ["run", "run.domains=[bible]", "cluster=debug"],
        ["run", "run.domains=[bible]", "--dry-run"],
        ["run", "baseline=dense", "--dry-run"],
        ["prepare"],
        ["seed"],
        ["branch", "expert=again", "domain=bible"],
        ["score"],
        ["eval"],
        ["compare"],
        ["average", "weights=posterior", "domain=bible"],
        ["generate", "prompt=x", "domain=bible"],
        ["remove", "expert=bible", "--rederive"],
        ["grow", "domain=bible"],
    ],
    ids=" ".join,
)
def test_text_under_another_tokenizer_is_refused_before_anything_is_written(
    place, grown, capsys, verb
):
    theirs = Forest(place / "forest").identity["tokenizer_sha256"][:12]
    found = preparation.Suite.open(place / "data/foreign").tokenizer_sha256[:12]
    words = [f"data.out={place / 'data'}", "data=folder", f"data.root={place / 'foreign'}"]
    if "baseline=dense" in verb:  # there is none yet, and the forest is the one whose text counts
        dense = place / "forest-dense"
        shutil.copytree(place / "forest", dense, dirs_exist_ok=True)
        shutil.copytree(dense / "elms/seed", dense / "elms/dense", dirs_exist_ok=True)
        card = dense / "elms/dense/card.json"  # as of an older btm: its steps are those of a seed
        card.write_text(json.dumps(json.loads(card.read_bytes()) | {"settings": {}}))
    before = tree(place)
    said = refusal(capsys, *verb, f"forest={place / 'forest'}", *words, "data.name=foreign")
    assert f"({found} against {theirs})" in said
    assert "btm prepare forest=" in said
    assert tree(place) == before


def test_a_domain_that_was_put_into_the_suite_is_refused_too(place, grown, tmp_path):
    shutil.copytree(grown[0].data.out, tmp_path / "data")
    shutil.copytree(place / "data/foreign/bible", tmp_path / "data/smoke/bible2")
    words = [f"forest={place / 'forest'}", f"data.out={tmp_path / 'data'}"]
    with pytest.raises(UserError, match="bible2 has another tokenizer than the forest"):
        steps.open_suite(compose(words, "eval"))


def test_prepare_takes_the_tokenizer_of_the_forest(place, added, grown):
    forest = Forest(place / "forest")
    suite = preparation.Suite.open(place / "data/more")
    assert suite.tokenizer_sha256 == forest.identity["tokenizer_sha256"]
    origin = json.loads((suite.tokenizer / "origin.json").read_bytes())
    assert origin["copied"]["sha256"] == forest.identity["tokenizer_sha256"]
    assert settings.read_suites(forest.root).keys() == {"smoke", "more"}
    before = tree(place)
    steps.prepare(
        compose([*added, "data.name=more"], "prepare")
    )  # the recorded words prepare it again
    assert tree(place) == before


def test_another_tokenizer_cannot_be_asked_for(place, capsys):
    words = [
        f"forest={place / 'forest'}",
        "data=folder",
        f"data.root={place / 'texts'}",
        "data.name=third",
    ]
    given = f"data.tokenizer={place / 'data/foreign/tokenizer'}"
    said = refusal(capsys, "prepare", *words, given, f"data.out={place / 'data'}")
    assert given in said and "another tokenizer than the forest" in said
    assert not (place / "data/third").exists()


def test_a_domain_has_one_suite(place, added, capsys, tmp_path):
    shutil.copytree(DEMO / "speeches", tmp_path / "texts/speeches")
    words = ["data=folder", f"data.root={tmp_path / 'texts'}", "data.name=twice"]
    said = refusal(capsys, "prepare", *added, *words, f"data.out={tmp_path / 'data'}")
    assert "the domain 'speeches' of 'twice' is in" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], {"bible", "code_python", "novels", "speeches", "tcl"}),
        (["eval.suites=[more]"], {"tcl"}),
        (["data.name=more"], {"tcl"}),
        (["data.name=smoke"], {"bible", "code_python", "novels", "speeches"}),
        (["eval.suites=[more,smoke]", "eval.domains=[bible,tcl]"], {"bible", "tcl"}),
    ],
)
def test_an_evaluation_is_of_all_suites_or_those_named(added, capsys, words, wanted):
    assert (
        main.main(["eval", "--json", *added, "score.max_tokens=256", "eval.name=some", *words]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert {key.partition("/")[0] for key in result["shards"]} == wanted


def test_a_domain_of_any_suite_is_found(place, added):
    made = steps.branch(compose([*added, "score.max_tokens=256"], "branch"), "other", "tcl")
    assert made.origin["estimator"].endswith(
        f"({steps.open_suites(compose(added)).shard('tcl', 'valid').sha256[:16]})"
    )


def test_an_unknown_suite_is_named(added, capsys):
    assert "no suite 'mor'" in refusal(capsys, "eval", *added, "eval.suites=[mor]")


def test_a_suite_that_was_recorded_relative_to_another_folder_is_named(
    place, tmp_path, monkeypatch, capsys
):
    root = shutil.copytree(place / "forest", tmp_path / "experts/forest")
    shutil.copytree(settings.read_suites(root)["smoke"].folder, tmp_path / "data/smoke")
    monkeypatch.chdir(tmp_path)
    assert main.main(["prepare", f"forest={root}", "data.out=data"]) == 0
    assert "reading" not in capsys.readouterr().err  # it is only recorded
    monkeypatch.chdir(root)
    said = refusal(capsys, "eval", f"forest={root}")
    assert f"but in {tmp_path}/data/" in said
    assert f"work from there, or give data.out={tmp_path}/data" in said


@pytest.mark.slow
def test_a_suite_that_moved_is_found_with_one_word_and_one_that_is_gone_is_named(
    place, added, tmp_path, capsys
):
    root = shutil.copytree(place / "forest", tmp_path / "forest")
    words, more = [f"forest={root}"], place / "data/more"
    shutil.copytree(settings.read_suites(root)["smoke"].folder, tmp_path / "moved/smoke")
    hidden = more.rename(more.with_name("hidden"))
    try:
        said = refusal(capsys, "eval", *words)
        assert f"the suite 'more' that {root} records is not in {more}" in said
        assert "give data.out=DIR if it was moved" in said
        assert (
            f"(btm prepare forest={root} data.name=more), or delete {root}/suites/more.json" in said
        )
        elms = tree(root / "elms")
        assert said == refusal(
            capsys, "run", *words, "cluster=debug", "run.rounds=[[novels]]"
        )  # before it trains
        assert tree(root / "elms") == elms
        assert "which are gone: more" in refusal(capsys, "branch", *words, "expert=x", "domain=tlc")
        assert "tcl" not in steps.open_suites(compose(words, "branch")).domains()
        shutil.copytree(hidden, tmp_path / "moved/more")
        found = steps.open_suites(compose([*words, f"data.out={tmp_path / 'moved'}"], "branch"))
        assert found.shard("tcl", "train").folder == Path(tmp_path / "moved/more/tcl")
    finally:
        hidden.rename(more)
