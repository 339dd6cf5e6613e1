"""A student of a forest: made, resumed, refused, removed and made again."""

import json
import shutil

import pytest
import torch
from folders import tree
from safetensors.torch import load_file

from btm import steps
from btm.cli.main import main
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest, gc, removal, verify
from btm.forest.card import Card
from btm.report import Reporter
from btm.steps import held_out, rederive

WORDS = [
    "student=pupil",
    "distil.steps=6",
    "trainer.checkpoint_every=2",
    "distil.experts=[bible,speeches]",
]


class Stopping(Reporter):
    """Stop a training after some steps, or a reading after some tokens."""

    def __init__(self, step=None, tokens=None):
        self.step, self.tokens = step, tokens

    def pulse(self, step):
        return step == self.step

    def scoring(self, name, tokens):
        from contextlib import contextmanager

        @contextmanager
        def counting():
            def report(more):
                if self.tokens is not None and "teachers" in name:
                    raise KeyboardInterrupt

            yield report

        return counting()


def bytes_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def card_of(path):
    return Card.read(path / "card.json")


@pytest.fixture(scope="module")
def distilled(grown, workspace, tmp_path_factory):
    """A forest with a student of two of its experts; tests that change it take a copy."""
    from btm.cli.compose import compose

    root = tmp_path_factory.mktemp("distilled") / "forest"
    shutil.copytree(grown[0].forest_root, root)
    config = compose([*workspace, f"forest={root}", *WORDS])
    return config, steps.distil(config)


@pytest.fixture
def own(distilled, workspace, tmp_path):
    """A function from overrides to a configuration whose forest is a copy with the student."""
    from btm.cli.compose import compose

    shutil.copytree(distilled[0].forest_root, tmp_path / "forest")
    return lambda *more: compose([*workspace, f"forest={tmp_path / 'forest'}", *WORDS, *more])


def test_a_student_is_sealed_with_card_and_costs(distilled):
    config, path = distilled
    forest, card = Forest(config.forest_root), card_of(path)
    assert path == forest.root / "students" / "pupil"
    assert set(card.parents) == {"bible", "speeches"}
    assert sum(parent.weight for parent in card.parents.values()) == pytest.approx(1)
    assert card.recipe["teachers"] == ["bible", "speeches"]
    assert card.tokens == 6 * config.trainer.batch_size * config.trainer.seq_len
    like = forest["bible"].card
    each = 2 * like.matrix_parameters + 4 * like.attention * config.trainer.seq_len
    assert card.recipe["teacher_flops"] == pytest.approx(2 * card.tokens * each)
    assert card.flops == pytest.approx(card.recipe["student_flops"] + card.recipe["teacher_flops"])
    spent = {entry.name: entry.flops for entry in card.ancestors}
    assert card.total_flops == pytest.approx(card.flops + sum(spent.values()))
    assert {"seed", "bible", "code_python", "speeches"} == set(spent)
    assert set(card.measured) == {"bible", "speeches"}
    assert set(card.data) == {"bible", "speeches"}
    assert not list(path.glob("checkpoint-*"))
    assert not list((forest.root / "branches").glob("pupil*"))
    assert [f.problem for f in verify.verify(forest.root, full=True) if f.problem] == []


def test_the_same_words_again_do_nothing(distilled):
    config, path = distilled
    before = tree(path)
    assert steps.plan_of_distil(config).idle
    assert steps.distil(config) == path
    assert tree(path) == before


@pytest.mark.parametrize("stop", [Stopping(step=3), Stopping(tokens=1)])
def test_killed_and_resumed_it_has_the_same_bytes(distilled, copy, stop):
    config = copy(*WORDS)
    with pytest.raises((TrainingStoppedError, KeyboardInterrupt)):
        steps.distil(config, stop)
    forest = Forest(config.forest_root)
    assert forest.has_branch("pupil+student")
    assert "pupil" not in forest.names()
    # Indexes of other tests' forests, gone by now, are waste too.
    assert [w for w in gc.find(forest) if w.path.is_relative_to(forest.root)] == []
    path = steps.distil(config)
    wanted, found = distilled[1] / "model.safetensors", path / "model.safetensors"
    assert wanted.read_bytes() == found.read_bytes()
    kept, again = (bytes_of(Forest(c.forest_root).root / "targets") for c in (distilled[0], config))
    assert kept == again


def test_it_comes_nearer_to_its_teachers_than_the_text_alone_brings_it(own):
    long = ["distil.steps=40", "distil.weight=1", "trainer.lr=2e-3", "student=long"]
    path = steps.distil(own(*long))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_another_student_finds_the_predictions_there(own):
    config = own("student=other", "distil.weight=0.5", "distil.temperature=2")
    assert "read 0 tokens" in steps.plan_of_distil(config).what
    before = tree(Forest(config.forest_root).root / "targets")
    steps.distil(config)
    assert tree(Forest(config.forest_root).root / "targets") == before
    # Another rule, other teachers or another order of the text have predictions of their own.
    for word in ("distil.teacher=gated", "distil.experts=[bible]", "trainer.seed=1"):
        assert "read 0 tokens" not in steps.plan_of_distil(own("student=x", word)).what


def test_without_a_weight_no_teacher_is_read(own):
    config = own(
        "student=plain", "distil.weight=0", "distil.init=seed", "distil.domains=[speeches]"
    )
    shutil.rmtree(Forest(config.forest_root).root / "targets")
    card = card_of(steps.distil(config))
    assert card.recipe["teacher_flops"] == 0
    assert {name: p.weight for name, p in card.parents.items()} == {
        "seed": 1.0,
        "bible": 0.0,
        "speeches": 0.0,
    }
    assert not (Forest(config.forest_root).root / "targets").exists()


def test_it_is_a_row_of_its_own_and_held_to_its_text(own):
    config = own("average.method=linear")
    result = steps.eval_forest(config)
    assert (
        result["ledger"]["models"]["pupil"]["training"]["flops"]
        == card_of(Forest(config.forest_root).root / "students" / "pupil").total_flops
    )
    assert result["models"]["pupil"]["kind"] == "student"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("distil.steps=7", "distil.steps was 6, now 7"),
        ("distil.weight=0.5", "distil.weight was 0.9, now 0.5"),
        ("distil.temperature=2", "distil.temperature was 1, now 2"),
        ("distil.teacher=gated", "distil.teacher was posterior, now gated"),
        ("distil.experts=[bible]", "teachers was bible, speeches, now bible"),
        ("distil.domains=[bible]", "texts was bible, speeches, now bible"),
        ("distil.init=seed", "distil.init was token, now seed"),
        ("trainer.lr=0.5", "trainer.lr was"),
        ("score.max_tokens=512", "score.max_tokens was 1024, now 512"),
    ],
)
def test_what_differs_from_a_student_that_stands_is_named(own, word, said):
    with pytest.raises(UserError, match=said):
        steps.plan_of_distil(own(word))


def test_other_settings_are_refused_half_way_too(copy):
    with pytest.raises(TrainingStoppedError):
        steps.distil(copy(*WORDS), Stopping(step=3))
    with pytest.raises(UserError, match=r"distil.weight was 0.9, now 0.5"):
        steps.distil(copy(*WORDS, "distil.weight=0.5"))


@pytest.mark.parametrize("half", [False, True])
def test_a_start_of_other_weights_is_named(own, half):
    def average(shares):
        config = own("average.name=start", f"weights={shares}", "average.measure=false")
        return card_of(steps.average(config)).sha256

    config = own("student=new", "distil.init=start")
    old = average("{bible: 1, speeches: 2}")
    if half:
        with pytest.raises(TrainingStoppedError):
            steps.distil(config, Stopping(step=3))
    else:
        assert card_of(steps.distil(config)).recipe["start"] == {"start": old}
        assert steps.plan_of_distil(config).idle
    new = average("{bible: 2, speeches: 1}")
    assert new != old
    with pytest.raises(UserError, match=f"start start was {old[:12]}, now {new[:12]}"):
        steps.distil(config)
    # One that is gone is no other start: what was begun goes on, and what stands, stands.
    removal.remove_derived(Forest(config.forest_root), "averages/start")
    steps.distil(config)
    assert steps.plan_of_distil(config).idle


@pytest.fixture
def repacked(own, tmp_path):
    """A function from overrides to a configuration whose valid text of one domain is another."""
    config = own()
    texts = tmp_path / "texts"
    shutil.copytree(config.data.root, texts)
    shutil.copytree(config.data.out, tmp_path / "data")
    test, valid = (texts / f"speeches/{split}.jsonl.zst" for split in ("test", "valid"))
    test.rename(texts / "aside"), valid.rename(test), (texts / "aside").rename(valid)
    words = [f"data.root={texts}", f"data.out={tmp_path / 'data'}"]
    steps.prepare(own(*words))
    return lambda *more: own(*words, *more)


def test_valid_text_that_was_packed_anew_is_named(own, repacked):
    old, new = (
        steps.open_suites(config).shard("speeches", "valid").sha256
        for config in (own(), repacked())
    )
    said = f"valid text speeches was {old[:12]}, now {new[:12]}: give"
    with pytest.raises(UserError, match=said):
        steps.plan_of_distil(repacked())
    with pytest.raises(TrainingStoppedError):
        steps.distil(own("student=new"), Stopping(step=3))
    with pytest.raises(UserError, match=said):
        steps.distil(repacked("student=new"))
    # On which nothing is fitted where it learns from the text alone and begins as it is told.
    plain = ["student=plain", "distil.weight=0", "distil.init=uniform"]
    steps.distil(own(*plain))
    assert steps.plan_of_distil(repacked(*plain)).idle


def test_a_card_without_start_and_valid_text_is_held_to_the_rest(own, repacked):
    file = Forest(own().forest_root).root / "students/pupil/card.json"
    values = json.loads(file.read_text())
    assert values["recipe"].pop("fitted_on").keys() == {"bible", "speeches"}
    file.write_text(json.dumps(values))
    assert steps.plan_of_distil(repacked()).idle


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distil.steps=0"], "distil.steps=0: wanted 1 or more"),
        (["distil.weight=1.5"], r"distil.weight=1.5: wanted \[0, 1\]"),
        (["distil.weight=-0.1"], r"distil.weight=-0.1: wanted \[0, 1\]"),
        (["distil.temperature=0"], "distil.temperature=0.0: wanted more than 0"),
        (["distil.teacher=tracking"], "distil.teacher='tracking'"),
        (["distil.experts=[law]"], "no ELM 'law'"),
        (["distil.domains=[law]"], "law"),
        (["distil.init=law"], "no model 'law'"),
        (["distil.init=pupil"], "a student, and a student begins as an ELM or an average"),
        (["distil.weight=0", "distil.temperature=2"], "distil.temperature has no effect here"),
        (["trainer=fairseq", "trainer.carry=fresh"], "trains by itself alone"),
        (["expert=bible"], "did you mean distil.experts"),
        (["trainer.seq_len=100000"], "positions for"),
        (["student=../up"], "distil.name"),
        (["student=null"], "which student"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(own, workspace, capsys, words, said):
    import re

    config = own()
    root = Forest(config.forest_root).root
    before = tree(root)
    asked = [*workspace, f"forest={root}", "student=new", "distil.experts=[bible,speeches]", *words]
    assert main(["distil", *asked]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert re.search(said, err)
    assert tree(root) == before


def test_a_student_larger_than_memory_is_refused(own, workspace, capsys):
    config = own()
    root = Forest(config.forest_root).root
    head = json.dumps(
        {"huge": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    )
    with (root / "elms" / "bible" / "model.safetensors").open("wb") as file:  # 4 TB, of holes
        file.write(len(head).to_bytes(8, "little") + head.encode())
        file.truncate(8 + len(head) + 4 * 10**12)
    words = [*workspace, f"forest={root}", "student=new", "trainer.device=cpu"]
    assert main(["distil", *words]) == 2
    err = capsys.readouterr().err
    assert "distilling needs" in err
    assert len(err.splitlines()) == 1


def test_a_teacher_that_is_removed_names_it_as_heir(own):
    config = own()
    forest = Forest(config.forest_root)
    heirs = {heir.name: heir for heir in removal.consequences(forest, "bible").heirs}
    assert heirs["pupil"].kind == "student"
    removal.remove_with_descendants(forest, "bible")
    assert not (forest.root / "students" / "pupil").exists()
    assert list((forest.root / "targets").glob("*/*")) == []


def test_it_is_made_again_of_the_teachers_that_are_left(own):
    config = own()
    rows = {row["name"]: row for row in rederive.rederive(config, "speeches")}
    assert rows["pupil"]["now"] == "made again"
    card = card_of(Forest(config.forest_root).root / "students" / "pupil")
    assert set(card.parents) == {"bible"}
    assert card.settings["distil.steps"] == 6


def test_one_in_the_making_goes_with_its_teacher(copy):
    config = copy(*WORDS)
    with pytest.raises(TrainingStoppedError):
        steps.distil(config, Stopping(step=3))
    forest = Forest(config.forest_root)
    rows = {row["name"]: row for row in rederive.rederive(config, "bible")}
    assert rows["pupil+student"]["now"] == "deleted"
    assert not forest.has_branch("pupil+student")


def test_it_begins_as_the_token_average(own):
    config = own("student=still", "trainer.lr=1e-30", "distil.steps=1", "trainer.weight_decay=0")
    path = steps.distil(config)
    parents = card_of(path).parents
    elms = Forest(config.forest_root)
    found = load_file(path / "model.safetensors")
    parts = {name: load_file(elms[name].path / "model.safetensors") for name in parents}
    for key, tensor in found.items():
        wanted = sum(parents[name].weight * part[key].double() for name, part in parts.items())
        torch.testing.assert_close(tensor.double(), wanted, rtol=1e-5, atol=1e-6)


def test_one_in_the_making_can_be_removed(copy, workspace):
    config = copy(*WORDS)
    with pytest.raises(TrainingStoppedError):
        steps.distil(config, Stopping(step=3))
    forest = Forest(config.forest_root)
    assert main(["remove", f"forest={forest.root}", "student=pupil"]) == 0
    assert not forest.has_branch("pupil+student")
    assert main(["remove", f"forest={forest.root}", "student=pupil"]) == 2


def test_what_it_was_trained_on_is_not_evaluated(own):
    config = own()
    forest = Forest(config.forest_root)
    suite = steps.open_suites(config)
    [pupil] = [model for model in steps.beside(config, forest) if model.name == "pupil"]
    with pytest.raises(UserError, match="training text of pupil"):
        held_out.refuse(forest, suite, [suite.shard("bible", "train")], [pupil])
