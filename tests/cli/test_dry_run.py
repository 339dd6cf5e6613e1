"""What --dry-run plans is what the verb then does: the ELMs, the tokens and the files."""

import io
import json
import shutil
from pathlib import Path

import pytest

from btm.cli import main
from btm.cli.dry_run import collapsed, plan, readable, show
from btm.cli.verbs import Output
from btm.forest import Forest
from btm.report import Reporter
from btm.steps.plan import Plan
from btm.train.loop import TrainingStoppedError

FOLDERS = ("elms", "averages", "students", "evals", "scores")


@pytest.fixture
def words(copy, workspace, tmp_path):
    """Words on a copy of the grown forest."""
    copy()
    return [*workspace, f"forest={tmp_path / 'forest'}", "merge.force=true"]


@pytest.fixture
def said(capsys):
    """A function that runs a verb and returns what it prints as JSON."""

    def said(verb, *words):
        code = main.main([verb, "--json", *words])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    return said


def found(root, folders):
    """The files of evals/ and scores/ and the models of elms/ and averages/."""
    return {
        path
        for folder in folders
        for path in (root / folder).glob("**/*" if folder in ("evals", "scores") else "*")
        if path.is_file() or folder in ("elms", "averages", "students")
    }


def planned_is_done(said, root, folders, verb, *words):
    """Run a verb as --dry-run and then for good; what was planned to be written is what is new in
    `folders`, and returns the rows of the plan.
    """
    before = found(root, folders)
    rows = said(verb, "--dry-run", *words)
    assert found(root, folders) == before
    said(verb, *words)
    writes = {Path(path) for row in rows for path in row["writes"]}
    assert all(path.exists() for path in writes), writes
    ours = {path for path in writes if path.relative_to(root).parts[0] in folders}
    assert ours - before == found(root, folders) - before
    return rows


def test_a_seed(said, words, tmp_path):
    root = tmp_path / "new"
    [row] = planned_is_done(said, root, ["elms"], "seed", *words, f"forest={root}")
    card = Forest(root)["seed"].card
    assert row["tokens"] == card.tokens
    assert row["flops"] == pytest.approx(card.flops)
    assert set(row["epochs"]) == set(card.domains)
    assert said("seed", "--dry-run", *words, f"forest={root}")[0]["writes"] == []


def test_branch_train_and_merge(said, words, tmp_path):
    root, more = tmp_path / "forest", ["expert=tales", "domain=novels", "trainer.steps=3"]
    planned_is_done(said, root, ["elms"], "branch", *words, *more)
    branch = said("train", "--dry-run", *words, *more)[0]
    planned_is_done(said, root, ["elms"], "train", *words, *more)
    [row] = planned_is_done(said, root, ["elms"], "merge", *words, *more)
    assert row["name"] == "tales"
    card = Forest(root)["tales"].card
    assert (branch["tokens"], list(branch["epochs"])) == (card.tokens, ["novels"])
    assert branch["flops"] == pytest.approx(card.flops)


def test_the_rest_of_a_training(said, words, tmp_path, monkeypatch):
    """One that was stopped at a checkpoint has only its other steps to come."""
    more = ["expert=tales", "domain=novels", "trainer.steps=6", "trainer.checkpoint_every=2"]
    said("branch", *words, *more)
    whole = said("train", "--dry-run", *words, *more)[0]["tokens"]
    monkeypatch.setattr(Reporter, "pulse", lambda self, step: step >= 4)
    with pytest.raises(TrainingStoppedError):
        main.main(["train", *words, *more])
    monkeypatch.undo()
    row = said("train", "--dry-run", *words, *more)[0]
    assert "from checkpoint-00000004" in row["what"]
    assert row["tokens"] == whole // 3


def test_grow(said, words, tmp_path):
    root = tmp_path / "forest"
    rows = planned_is_done(said, root, ["elms"], "grow", *words, "domain=novels", "trainer.steps=2")
    assert rows[0]["tokens"] == Forest(root)["novels"].card.tokens
    again = said("grow", "--dry-run", *words, "domain=novels", "trainer.steps=2")
    assert [row["writes"] for row in again] == [[], []]


@pytest.mark.parametrize(
    ("verb", "folders", "more"),
    [
        ("score", ["scores", "evals"], ["score.splits=[train]", "score.domains=[bible]"]),
        ("eval", ["scores", "evals"], ["eval.name=new", "score.max_tokens=600"]),
        (
            "eval",
            ["scores", "evals"],
            ["eval.name=x", "ensemble.fit=forest", "score.max_tokens=500"],
        ),
        ("compare", ["evals"], ["eval.name=new"]),
        ("average", ["averages"], ["weights={bible: 0.75, seed: 0.25}", "average.name=mine"]),
        ("average", ["averages"], ["weights=posterior", "domain=novels"]),
        ("distil", ["students"], ["student=mine", "distil.steps=2"]),
        ("generate", ["scores"], ["prompt=In the", "domain=novels", "score.max_tokens=300"]),
        ("prepare", ["elms", "scores"], []),
    ],
)
def test_what_uses_a_forest(said, words, tmp_path, verb, folders, more):
    rows = planned_is_done(said, tmp_path / "forest", folders, verb, *words, *more)
    assert rows
    if verb in ("score", "eval"):
        again = said(verb, "--dry-run", *words, *more)
        assert not sum(row["tokens"] or 0 for row in again)


def test_a_cycle(said, words, tmp_path):
    root = tmp_path / "whole"
    more = [f"forest={root}", "cluster=debug", "trainer.steps=2", "seed.steps=3"]
    rows = {row["job"]: row for row in said("run", "--dry-run", *words, *more)}
    said("run", *words, *more)
    cards = {elm.name: elm.card for elm in Forest(root).elms()}
    trained = {job.removeprefix("train-"): row for job, row in rows.items() if job[:5] == "train"}
    assert {*trained, "seed"} == set(cards)
    assert rows["all"]["tokens"] == sum(card.tokens for card in cards.values())
    for name, row in trained.items():
        assert row["tokens"] == cards[name].tokens
        assert list(row["epochs"]) == cards[name].domains


@pytest.mark.parametrize(
    ("verb", "more", "wanted"),
    [
        ("seed", ["forest=NEW", "trainer.seq_len=100000"], "has positions for"),
        ("grow", ["domain=novels", "trainer.seq_len=100000"], "has positions for"),
        ("score", ["score.window=100000"], "has positions for"),
        ("eval", ["ensemble.experts=[nobody]"], "no ELM 'nobody'"),
        ("score", ["score.experts=[nobody]"], "no model 'nobody'"),
        ("run", ["ensemble.experts=[nobody]"], "no ELM 'nobody'"),
        ("average", ["average.experts=[nobody]"], "no ELM 'nobody'"),
        ("compare", ["ensemble.experts=[nobody]"], "no ELM 'nobody'"),
        ("merge", ["expert=nobody"], "nobody"),
    ],
)
def test_what_the_verb_refuses_is_refused(capsys, words, tmp_path, verb, more, wanted):
    more = [word.replace("NEW", str(tmp_path / "new")) for word in more]
    lines = set()
    for flag in (["--dry-run"], []):
        assert main.main([verb, *words, *more, *flag]) == 2
        lines.add(capsys.readouterr().err)
    [line] = lines
    assert wanted in line


def test_a_branch_that_the_gate_refuses_is_not_planned(capsys, words, tmp_path):
    said = ["expert=tales", "domain=novels", "trainer.steps=6", "merge.force=false"]
    for verb in ("branch", "train"):
        assert main.main([verb, *words, *said, "trainer.lr=0.5"]) == 0
    capsys.readouterr()
    lines = set()
    for flag in (["--dry-run"], []):
        assert main.main(["merge", *words, *said, *flag]) == 2
        lines.add(capsys.readouterr().err)
    [line] = lines
    assert "is worse than its parent" in line


def test_many_epochs_are_warned_of(copy):
    many = ["trainer.steps=4000", "domain=novels", "run.rounds=[[novels]]"]
    config = copy(*many)
    for verb, key in (("grow", "step"), ("run", "job")):
        [row] = [row for row in plan(verb, config) if row[key] == "warning"]
        assert "novels" in row["what"]
        assert "more than 4 epochs" in row["what"]


def test_amounts_are_shown_in_units():
    row = {"what": "x", "tokens": 12_345_678, "flops": 2.5e15, "disk bytes": 3_000_000}
    assert readable([row | {"seconds": 7500.0, "parents": ""}]) == [
        {
            "what": "x",
            "tokens": "12.3 M",
            "flops": "2.5 PFLOP",
            "disk bytes": "3.0 MB",
            "seconds": "2 h 05 min",
        }
    ]
    assert readable([{"what": "x", "flops": 0}]) == [{"what": "x", "flops": "0 FLOP"}]


def test_many_jobs_alike_are_one():
    names = ["ak", "ar", "as", "bm", "zu"]
    packed = [{"job": f"prepare {name}", "what": "nothing: unchanged"} for name in names]
    trained = [
        {"job": f"train-{name}", "what": "train 2 steps", "tokens": 5 + (name == "zu")}
        for name in names
    ]
    assert collapsed([*packed, *trained]) == [
        {"job": "prepare ak … prepare zu (5)", "what": "nothing: unchanged, each"},
        *trained,  # four alike are no more than that, and the last is another
    ]
    alike = [row | {"tokens": 5} for row in trained]
    assert collapsed(alike) == [
        {"job": "train-ak … train-zu (5)", "what": "train 2 steps, each", "tokens": 5}
    ]
    # What is removed is named, and so is whatever another verb would do.
    removed = [{"job": f"remove {name}", "what": "other settings"} for name in names]
    files = [{"step": "gc", "name": name, "what": "1.2 MB: of no ELM"} for name in names]
    assert collapsed([*removed, *files]) == [*removed, *files]


def test_notes_and_warnings_are_sentences_below_the_table():
    rows = [
        {"job": "note", "what": "49 steps follow from the amount of text"},
        {"job": "seed", "what": "train 98 steps"},
        {"step": "warning", "name": "law", "what": "law reads its text 5 times"},
    ]
    out = io.StringIO()
    show(rows, Output(as_json=False, stdout=out, stderr=out))
    lines = out.getvalue().splitlines()
    assert lines[-2:] == [
        "note: 49 steps follow from the amount of text",
        "warning: law reads its text 5 times",
    ]
    assert sum("train 98 steps" in line for line in lines[:-2]) == 1
    assert not any("note" in line or "warning" in line for line in lines[:-2])


def test_a_plan_that_writes_nothing_is_idle():
    assert Plan.nothing("merge", "law").idle
    assert not Plan("merge", "law", "move", writes=(Path("elms/law"),)).idle


def test_a_run_that_was_killed_before_a_domain_was_prepared_is_planned(said, grown, tmp_path):
    data = grown[0].data
    shutil.copytree(f"{data.out}/{data.name}/tokenizer", tmp_path / "data/smoke/tokenizer")
    words = ["experiment=smoke", f"data.out={tmp_path / 'data'}", f"forest={tmp_path / 'forest'}"]
    assert said("run", "--dry-run", *words)
