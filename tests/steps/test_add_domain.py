"""A domain that joins a grown forest: text, expert, and the ensemble before and after, from forest=
alone.
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from folders import DEMO, tree

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.cli.verbs.grown_again import rebuilding
from btm.errors import UserError
from btm.forest import Forest
from btm.report import Reporter

pytestmark = pytest.mark.slow

OLD = ["bible", "code_python", "novels", "speeches"]


class KilledError(BaseException):
    """A kill."""


class Killer(Reporter):
    """Dies at the first line that holds `word`, or at a training step."""

    def __init__(self, word=None, step=None):
        self.word, self.step = word, step

    def line(self, text):
        if self.word and self.word in text:
            raise KilledError

    def pulse(self, step):
        if step == self.step:
            raise KilledError
        return False


def place_of(grown, folder):
    """A copy of the shared forest with its text, and the words that name both."""
    shutil.copytree(grown[0].forest_root, folder / "forest")
    shutil.copytree(grown[0].data.out, folder / "data")
    return [f"forest={folder / 'forest'}", f"data.out={folder / 'data'}"]


@pytest.fixture(scope="module")
def text():
    return f"from={DEMO / 'code_tcl'}"


@pytest.fixture(scope="module")
def added(grown, text, tmp_path_factory):
    """The words of a forest, and what adding code_tcl to it printed."""
    folder = tmp_path_factory.mktemp("added")
    words = place_of(grown, folder)
    steps.prepare(compose(words, "prepare"))  # it was moved: from here on forest= alone suffices
    return words[:1], steps.add_domain(compose([*words[:1], "domain=code_tcl", text], "grow"))


def test_the_new_domain_stands_first_and_gains(added):
    changes = added[1].changes
    assert [c.domain for c in changes] == ["code_tcl", *OLD]
    assert [c.kind for c in changes] == ["new", "trained", "trained", "novel", "trained"]
    assert changes[0].ratio < 0.9
    assert changes[0].expert_alone < changes[0].before


def test_before_is_the_ensemble_without_the_new_expert(added):
    words, found = added
    three = "ensemble.experts=[bible,code_python,speeches]"
    for experts, wanted in ((three, "before"), ("ensemble.experts=[]", "after")):
        result = steps.eval_forest(compose([*words, experts, "eval.name=again"], "eval"))
        for change in found.changes:
            perplexity = result["shards"][f"{change.domain}/test"]["ensemble"]["perplexity"]
            assert getattr(change, wanted) == perplexity


def test_the_expert_descends_from_all_and_was_trained_as_they_were(added, grown):
    forest = Forest(compose(added[0], "grow").forest_root)
    card = forest["code_tcl"].card
    assert (
        card.parents.keys() <= {"bible", "code_python", "speeches"}
        and "code_python" in card.parents
    )
    assert card.branch_method == "posterior" and "code_tcl/valid" in card.estimator
    assert card.steps == grown[0].trainer.steps
    assert forest["bible"].card == Forest(grown[0].forest_root)["bible"].card


def test_a_second_call_prints_the_same_and_touches_nothing(added, text, capsys):
    words, found = added
    root = Path(compose(words, "grow").forest_root).parent
    before = tree(root)
    assert main.main(["grow", *words, "domain=code_tcl", text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.to_json() | {"file": str(found.file)}
    assert tree(root) == before
    assert main.main(["grow", *words, "domain=code_tcl", text]) == 0
    table = capsys.readouterr().out
    assert table.index("code_tcl      new") < table.index("bible")


def test_the_file_holds_what_was_printed(added):
    values = json.loads(added[1].file.read_bytes())
    assert values["domains"] == added[1].to_json()["domains"]
    assert "code_tcl" in values["elms"]


def test_other_words_evaluate_anew_and_train_nothing(added, text, tmp_path):
    root = shutil.copytree(compose(added[0], "grow").forest_root, tmp_path / "forest")
    elms = tree(root / "elms")
    found = steps.add_domain(
        compose([f"forest={root}", "domain=code_tcl", text, "ensemble=uniform"], "grow")
    )
    assert found.changes[0].after != added[1].changes[0].after
    assert tree(root / "elms") == elms


def test_another_training_of_what_stands_is_refused(added, text, capsys):
    assert main.main(["grow", *added[0], "domain=code_tcl", text, "trainer.lr=0.02"]) == 2
    said = capsys.readouterr().err
    assert "code_tcl of other settings: trainer.lr was" in said and "now 0.02" in said


def test_later_verbs_need_the_forest_alone(added, capsys, tmp_path):
    root = shutil.copytree(compose(added[0], "grow").forest_root, tmp_path / "forest")
    words = [f"forest={root}"]
    assert main.main(["eval", "--json", *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "code_tcl" in result["ensemble"]["experts"] and "code_tcl/test" in result["shards"]
    assert (
        main.main(["generate", *words, "prompt=proc", "domain=code_tcl", "generate.tokens=2"]) == 0
    )
    assert main.main(["average", *words, "weights=posterior", "domain=code_tcl"]) == 0
    assert (
        main.main(["status", *words]) == 2
    )  # no cycle ran; the words were enough to find that out
    capsys.readouterr()
    assert (
        main.main(
            ["remove", *words, "expert=code_python", "--rederive", "--json", "merge.force=true"]
        )
        == 0
    )
    made = json.loads(capsys.readouterr().out)["made_again"]
    assert {"speeches", "code_tcl"} <= {row["name"] for row in made if row["now"] == "made again"}
    assert "code_python" not in Forest(root)["code_tcl"].card.parents


def test_a_report_tells_the_command_that_added_it(added, text, tmp_path):
    root = shutil.copytree(compose(added[0], "grow").forest_root, tmp_path / "forest")
    found = rebuilding(root)
    first, line = found.command.split("\n")
    assert first.startswith(f"btm run forest={root}")
    program, verb, *words = shlex.split(line)
    assert (program, verb) == ("btm", "grow") and words == [
        f"forest={root}",
        "domain=code_tcl",
        text,
    ]
    assert not any("code_tcl" in note for note in found.notes)
    shutil.rmtree(root / "elms/code_tcl")  # where the expert is no more, no line makes it
    found = rebuilding(root)
    assert "grow" not in found.command
    assert any("joined later" in note and "code_tcl" in note for note in found.notes)


def test_killed_anywhere_it_goes_on_to_the_same_forest(added, grown, text, tmp_path):
    words = place_of(grown, tmp_path)
    config = compose([*words, "domain=code_tcl", text], "grow")
    forest = Forest(config.forest_root)
    kills = [
        Killer("packing"),
        Killer("before-code_tcl"),
        Killer(step=6),
        Killer("merged"),
        Killer("after-code_tcl"),
    ]
    for killer in kills:
        with pytest.raises(KilledError):
            steps.add_domain(config, killer)
    assert "code_tcl" in forest
    found = steps.add_domain(config)
    assert found.changes == added[1].changes
    unbroken = Forest(compose(added[0], "grow").forest_root)
    assert forest["code_tcl"].card.sha256 == unbroken["code_tcl"].card.sha256


def test_a_prepared_domain_needs_no_text(grown, tmp_path):
    words = place_of(grown, tmp_path)
    found = steps.add_domain(
        compose([*words, "domain=novels", "trainer.steps=4", "merge.force=true"], "grow")
    )
    assert [c.domain for c in found.changes] == ["novels", "bible", "code_python", "speeches"]
    forest = Forest(compose(words, "grow").forest_root)
    assert forest["novels"].card.steps == 4


def test_dry_run_tells_it_and_writes_nothing(grown, text, tmp_path, capsys):
    words = place_of(grown, tmp_path)
    before = tree(tmp_path)
    assert main.main(["grow", "--dry-run", "--json", *words, "domain=code_tcl", text]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == ["prepare", "grow", "eval"]
    assert "posterior of bible, code_python, speeches" in rows[1]["what"]
    assert main.main(["grow", "--dry-run", *words, "domain=novels", "weights={bible: 1}"]) == 0
    assert "average bible with the given weights" in capsys.readouterr().out
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give domain=NAME"),
        (["domain=nowhere"], "no domain 'nowhere'"),
        (["domain=x", "from=/nowhere"], "no file or folder /nowhere"),
        (
            ["domain=bible", f"from={DEMO / 'code_tcl'}"],
            "the domain 'bible' of 'forest-bible' is in",
        ),
        (["domain=seed"], "that was not trained on a domain 'seed' alone"),
        (["domain=x", "expert=y"], "leave expert= out"),
        (["domain=x", f"from={DEMO / 'suite.json'}"], "wanted a folder, or a file that ends in"),
        (["domain=x", "baseline=dense"], "knows no baseline"),
        (["domain=novels", "eval.name=x"], "leave it out"),
        (["domain=tokenizer", f"from={DEMO / 'code_tcl'}"], "no domain can be called 'tokenizer'"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(grown, tmp_path, capsys, words, said):
    place = place_of(grown, tmp_path)
    before = tree(tmp_path)
    for flag in ([], ["--dry-run"]):
        assert main.main(["grow", *place, *words, *flag]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert tree(tmp_path / "data") == {key: before[key] for key in before if "/data/" in key}
    assert Forest(tmp_path / "forest").names() == ["bible", "code_python", "seed", "speeches"]


def test_a_removed_domain_is_not_added_again(grown, text, tmp_path):
    words = place_of(grown, tmp_path)
    assert main.main(["remove", *words, "expert=speeches"]) == 0
    with pytest.raises(UserError, match="removed"):
        steps.add_domain(compose([*words, "domain=speeches"], "grow"))
