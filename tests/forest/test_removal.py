"""Removal that means it: what goes, what stays, who is named, and that a kill between any two calls
is finished.
"""

import errno
import gc
import json
import os
import shutil
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from btm import steps
from btm.cli import compose, main
from btm.errors import UserError
from btm.forest import Forest, publish, removal, tombstone, verify
from btm.forest.card import Card
from btm.forest.lineage import ELM, Key, Lineage
from btm.models.average import Settings
from btm.steps import rederive
from btm.system import lease

MUTATING = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "fsync")


class KilledError(BaseException):
    """A kill before a system call."""


def raise_killed():
    raise KilledError


@contextmanager
def killed_at(count, die=raise_killed):
    """Let the call number `count` of those that change a folder not come to pass, nor anything
    after it.
    """
    left = [count]

    def watched(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                die()
            return real(*args, **kwargs)

        return call

    patches = [patch.object(os, name, watched(getattr(os, name))) for name in MUTATING]
    for one in patches:
        one.start()
    try:
        yield left
    finally:
        for one in patches:
            one.stop()


@pytest.fixture(scope="module")
def family(workspace, grown, tmp_path_factory):
    """A forest with a grandchild of bible, an average and a branch in the making that inherited
    from it.
    """
    root = shutil.copytree(grown[0].forest_root, tmp_path_factory.mktemp("family") / "forest")
    words = [*workspace, f"forest={root}", "merge.force=true", "trainer.steps=2"]
    forest = Forest(root)
    steps.branch(compose.compose([*words, "branch=copy", "parent=speeches"]), "psalms", "bible")
    steps.train(compose.compose(words), "psalms")
    steps.merge(compose.compose(words), "psalms")
    publish.average(forest, "deploy", {"bible": 0.25, "code_python": 0.75})
    forest.branch("tales", "novels", {"bible": 0.5, "seed": 0.5})
    return root


@pytest.fixture
def words(workspace, family, tmp_path):
    """Overrides for a copy of that forest which a test may change."""
    shutil.copytree(family, tmp_path / "forest")
    return [*workspace, f"forest={tmp_path / 'forest'}", "merge.force=true", "trainer.steps=2"]


@pytest.fixture
def heirs(words):
    """The configuration and the forest."""
    config = compose.compose(words)
    return config, Forest(config.forest_root)


def run(capsys, *words):
    code = main.main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def bytes_of(forest):
    """sha256 of the weights of all that stands, wherever."""
    return {p: p.read_bytes() for p in forest.root.rglob("*.safetensors")}


def test_shares_are_products_of_weights_summed_over_paths(heirs):
    _, forest = heirs
    card = forest["bible"].card
    found = {heir.name: heir for heir in removal.consequences(forest, "bible").heirs}
    direct = forest["speeches"].card.parents["bible"].weight
    assert set(found) == {"speeches", "psalms", "deploy", "tales", "uniform"}
    assert found["speeches"].weight == found["speeches"].share == pytest.approx(direct)
    assert found["psalms"].weight is None
    assert found["psalms"].share == pytest.approx(direct)
    assert (found["deploy"].kind, found["deploy"].share) == ("average", pytest.approx(0.25))
    assert (found["tales"].kind, found["tales"].share) == ("branch", pytest.approx(0.5))
    assert Lineage.of(forest.root).descendants(Key(ELM, "seed", forest["seed"].card.sha256))[
        Key(ELM, "bible", card.sha256)
    ] == pytest.approx(1.0)


def test_results_that_name_no_elms_are_no_obstacle(words):
    """Of a reader or a benchmark."""
    forest = Forest(compose.compose(words).forest_root)
    forest.paths.evals.mkdir(exist_ok=True)
    forest.paths.reading("qa", "test").write_text('{"reader": "qa"}')
    found = removal.consequences(forest, "bible").evals
    assert found == [forest.paths.evaluation(None)]


def test_remove_deletes_it_and_lists_descendants_with_their_share(capsys, heirs, words):
    _, forest = heirs
    card = forest["bible"].card
    weights = (forest["bible"].path / "model.safetensors").read_bytes()
    code, out, err = run(
        capsys, "remove", *words, "expert=bible", "remove.reason=the owner opted out"
    )
    assert code == 0, err
    assert all(
        name in out for name in ("speeches", "psalms", "deploy", "tales", "0.250", "--rederive")
    )
    assert "seed" in out.partition("same text")[2]  # it was trained on that text too
    assert "bible" not in forest
    assert weights not in bytes_of(forest).values()
    assert not list(forest.root.glob(f"scores/*/{card.sha256}.npy"))
    stone = tombstone.read(forest.paths.tombstone("bible"))
    assert stone.card == card
    assert stone.reason == "the owner opted out"
    assert {heir.name for heir in stone.heirs} == {
        "speeches",
        "psalms",
        "deploy",
        "tales",
        "uniform",
    }
    assert {"speeches", "psalms"} <= set(forest.names())
    assert not verify.verify(forest.root, full=True)
    for again in (["remove", "expert=bible"], ["ls", "ls.removed=true"]):
        code, out, _ = run(capsys, *again, *words)
        assert code == 0
        assert "bible" in out


def test_dry_run_names_what_would_go_and_changes_nothing(capsys, heirs, words):
    _, forest = heirs
    before = bytes_of(forest)
    for flags, said in (
        ([], "stays"),
        (["--with-descendants"], "delete it"),
        (["--rederive"], "make it again"),
    ):
        code, out, _ = run(capsys, "remove", "--dry-run", *words, "expert=bible", *flags)
        assert code == 0
        assert said in out
        assert "psalms" in out
    assert bytes_of(forest) == before


@pytest.mark.slow
def test_the_name_does_not_come_back_until_it_is_readmitted(capsys, words, forest):
    assert run(capsys, "remove", *words, "expert=bible", "remove.reason=opt-out")[0] == 0
    for command in (
        ["branch", "expert=bible"],
        ["show", "expert=bible"],
        ["train", "expert=bible"],
    ):
        code, _, err = run(capsys, *command, *words)
        assert code == 2
        assert "was removed" in err or "no branch" in err
    code, out, err = run(capsys, "run", *words, "trainer.steps=12", "cluster=debug")
    assert code == 0, err
    assert "not grown: 'bible' was removed" in err
    assert "bible" not in json.loads(run(capsys, "ls", "--json", *words)[1])[0]["name"]
    assert run(capsys, "remove", "--readmit", *words, "expert=bible")[0] == 0
    assert run(capsys, "branch", *words, "expert=bible", "branch=copy")[0] == 0
    assert run(capsys, "remove", "--readmit", *words, "expert=bible")[0] == 2
    code, out, _ = run(capsys, "lineage", *words, "expert=speeches")
    assert "bible (removed)" in out


def test_with_descendants_nothing_that_inherited_stays(capsys, heirs, words):
    _, forest = heirs
    code, _, err = run(capsys, "remove", "--with-descendants", *words, "expert=bible")
    assert code == 0, err
    assert forest.names() == ["code_python", "seed"]
    assert not list((forest.root / "averages").glob("deploy"))
    assert not forest.has_branch("tales")
    assert tombstone.read(forest.paths.tombstone("psalms")).because_of == "bible"
    assert not verify.verify(forest.root, full=True)


def test_rederive_makes_every_heir_again_without_it(capsys, heirs, words):
    _, forest = heirs
    old = {name: forest[name].card for name in ("bible", "speeches", "psalms")}
    code, out, err = run(capsys, "remove", "--rederive", "--json", *words, "expert=bible")
    assert code == 0, err
    made = json.loads(out)["made_again"]
    assert [row["name"] for row in made if row["what"] == "ELM"] == ["speeches", "psalms"]
    assert {row["now"] for row in made} == {"made again"}
    for name in ("speeches", "psalms"):
        card = forest[name].card
        assert card.sha256 != old[name].sha256
        assert "bible" not in {*card.parents, *(spent.name for spent in card.ancestors)}
        assert card.domains == old[name].domains
        assert card.steps == old[name].steps
    assert forest["psalms"].card.branch_method == "copy"
    assert set(Card.read(forest.root / "averages/deploy/card.json").parents) == {"code_python"}
    uniform = Card.read(forest.root / "averages/uniform/card.json")
    assert set(uniform.parents) == {"code_python", "speeches"}
    (row,) = [row for row in made if row["name"] == "uniform"]  # measured as it was
    assert row["after"] == uniform.valid_nats != row["before"]
    assert set(uniform.measured) == set(uniform.domains)
    assert "tales" in forest  # the branch was trained too, from the parent that is left
    assert set(forest["tales"].card.parents) == {"seed"}
    assert not removal.consequences(forest, "bible").heirs
    assert not verify.verify(forest.root, full=True)
    again = run(capsys, "remove", "--rederive", *words, "expert=bible")
    assert again[0] == 0, again[2]


def test_an_heir_of_one_parent_begins_with_that_parents_parents(words):
    forest = Forest(compose.compose(words).forest_root)
    rederive.rederive(compose.compose(words), "speeches")  # whose parents bible and code_python are
    card = tombstone.read(forest.paths.tombstone("speeches")).card
    weights = {name: parent.weight for name, parent in forest["psalms"].card.parents.items()}
    assert weights == pytest.approx({name: parent.weight for name, parent in card.parents.items()})


def test_a_root_cannot_be_rederived_and_nothing_happens(capsys, words):
    forest = Forest(compose.compose(words).forest_root)
    before = bytes_of(forest)
    code, _, err = run(capsys, "remove", "--rederive", *words, "expert=seed")
    assert code == 2
    assert "no parent left" in err
    assert bytes_of(forest) == before
    assert not tombstone.names(forest.root)


def test_a_refused_merge_is_told_and_the_same_command_goes_on(capsys, heirs, words):
    _, forest = heirs
    change_settings(forest, "psalms", {"trainer.lr": 10.0})
    strict = [word for word in words if word != "merge.force=true"]
    code, out, _ = run(capsys, "remove", "--rederive", *strict, "expert=speeches")
    assert code == 1
    assert "worse than its parent" in out
    code, out, err = run(capsys, "remove", "--rederive", *words, "expert=speeches")
    assert code == 0, err + out
    assert "speeches" not in forest["psalms"].card.parents


def change_settings(forest, name, settings, *gone):
    """As if the training of an ELM had had these settings, and its card lacked those of `gone`."""
    file = forest.paths.elm(name).card
    card = json.loads(file.read_text())
    card["settings"] |= settings
    for key in gone:
        del card["settings"][key]
    file.write_text(json.dumps(card))


def test_an_heir_is_trained_with_the_settings_on_its_card(capsys, heirs, words):
    _, forest = heirs
    own = {"trainer.lr": 0.02, "trainer.batch_size": 2, "trainer.clip": 0.5}
    change_settings(forest, "psalms", own, "trainer.weight_decay")
    old = forest["psalms"].card
    others = ["trainer.lr=0.003", "trainer.batch_size=8", "trainer.average_last=2"]
    code, out, err = run(
        capsys, "remove", "--rederive", "--json", *words, *others, "expert=speeches"
    )
    assert code == 0, err
    new = forest["psalms"].card
    assert new.settings["trainer.lr"] == new.lr == 0.02
    del new.settings["trainer.weight_decay"]
    assert new.settings == old.settings and new.tokens == old.tokens // 4
    (row,) = [row for row in json.loads(out)["made_again"] if row["name"] == "psalms"]
    lacks = "its card does not say trainer.weight_decay: taken from this command"
    assert row["why"] == lacks and f"psalms: {lacks}" in err


def test_an_heir_of_an_older_card_is_trained_by_the_command_and_this_is_said(heirs):
    config, forest = heirs
    change_settings(forest, "psalms", {}, *forest["psalms"].card.settings)
    config.trainer.batch_size = 3
    rows = rederive.rederive(config, "speeches")
    (row,) = [row for row in rows if row["name"] == "psalms"]
    assert row["why"].startswith("its card does not say the settings of its training: taken from")
    assert forest["psalms"].card.settings["trainer.batch_size"] == 3


def test_weights_that_are_kept_are_not_called_fitted_again(heirs):
    config, forest = heirs
    settings = Settings(method="task_arithmetic", base=forest["seed"].path, scale=0.25)
    weights = {"bible": 0.25, "speeches": 0.75}
    publish.average(
        forest, "mine", weights, method="token", settings=settings, scale="fit", estimator="on x"
    )
    publish.average(forest, "given", weights)
    rows = {row["name"]: row for row in rederive.rederive(config, "bible")}
    said = "weights and scale kept, not fitted again"
    assert rows["mine"]["why"] == said and rows["given"]["why"] == ""
    card = Card.read(forest.paths.average("mine").card)
    assert card.estimator == said and card.parents["speeches"].raw == 0.75
    assert said in forest.paths.average("mine").readme.read_text()
    assert publish.scale_of(forest, "mine", {"speeches": 0.75}, settings, "on x") is None


def test_a_damaged_card_is_no_way_to_stay(capsys, words):
    forest = Forest(compose.compose(words).forest_root)
    (forest.root / "elms/bible/card.json").write_text("{")
    code, out, err = run(capsys, "remove", *words, "expert=bible")
    assert code == 0, err
    assert "speeches" in out  # found by the sha256 of the weights
    assert not (forest.root / "elms/bible").exists()


def test_what_another_process_works_on_is_not_removed(capsys, heirs, words):
    _, forest = heirs
    with forest.hold("tales"):
        code, _, err = run(capsys, "remove", "--with-descendants", *words, "expert=bible")
    assert code == 2
    assert "at work" in err
    assert "bible" in forest


def test_unknown_and_contradictory_requests(capsys, words):
    assert "did you mean 'bible'" in run(capsys, "remove", *words, "expert=bibel")[2]
    both = run(capsys, "remove", "--rederive", "--with-descendants", *words, "expert=bible")
    assert "exclude each other" in both[2]
    assert "no removed ELM" in run(capsys, "remove", "--readmit", *words, "expert=bible")[2]


def test_a_merge_cannot_bring_a_removed_name_back(words):
    config = compose.compose(words)
    forest = Forest(config.forest_root)
    steps.train(config, "tales")
    with (
        pytest.MonkeyPatch.context() as patched
    ):  # as if it were removed by another process meanwhile
        patched.setattr(tombstone, "stands", lambda root, name: name == "tales")
        with pytest.raises(UserError, match="was removed"):
            forest.merge(forest.get_branch("tales"))


def removing(forest, name):
    """A callback that removes an ELM the first time it is called, as another process would."""

    def once(*_):
        if name in forest:
            removal.remove(forest, name)

    return once


@pytest.mark.parametrize("when", ["alive", "finish"])
def test_a_branch_whose_parent_is_removed_meanwhile_is_not_published(words, when):
    forest = Forest(compose.compose(words).forest_root)
    with pytest.raises(UserError, match=r"'code_python' was removed.*while 'new' was made of it"):
        forest.branch(
            "new",
            "novels",
            {"code_python": 0.5, "seed": 0.5},
            **{when: removing(forest, "code_python")},
        )
    assert not forest.has_branch("new")
    assert "new" not in {heir.name for heir in tombstone.all_of(forest.root)[0].heirs}


@pytest.mark.parametrize("name", ["new", "deploy"])  # the tombstone names the deploy that stood
def test_an_average_whose_parent_is_removed_meanwhile_is_not_published(words, name):
    forest = Forest(compose.compose(words).forest_root)
    card = forest.paths.average(name).card
    before = card.read_bytes() if card.exists() else None
    parents, meanwhile = {"code_python": 1.0, "seed": 1.0}, removing(forest, "code_python")
    with pytest.raises(UserError, match=f"removed.*while '{name}' was made of it"):
        publish.average(forest, name, parents, measure=lambda *_: meanwhile() or {})
    assert (card.read_bytes() if card.exists() else None) == before


def test_a_branch_that_appears_while_a_removal_looks_is_on_the_tombstone(words, monkeypatch):
    forest = Forest(compose.compose(words).forest_root)
    publish_stone = tombstone.publish

    def after_a_branch(root, stone, **how):
        if not forest.has_branch("new"):  # between the look for heirs and the tombstone
            forest.branch("new", "novels", {"code_python": 0.5, "seed": 0.5})
            publish.average(forest, "late", {"code_python": 1.0, "seed": 1.0})
        publish_stone(root, stone, **how)

    monkeypatch.setattr(tombstone, "publish", after_a_branch)
    removal.remove(forest, "code_python")
    named = {(heir.kind, heir.name) for heir in tombstone.all_of(forest.root)[0].heirs}
    assert {("branch", "new"), ("average", "late")} <= named
    assert not verify.verify(forest.root)


def test_a_branch_that_is_published_just_after_a_removal_is_taken_back(words, monkeypatch):
    forest = Forest(compose.compose(words).forest_root)
    require_free, calls = Forest.require_free, []

    def late(self, name):
        require_free(self, name)
        calls.append(name)
        if len(calls) == 2:  # after the parents were looked at, before the rename
            removal.remove(forest, "code_python")

    monkeypatch.setattr(Forest, "require_free", late)
    with pytest.raises(UserError, match="while 'new' was made of it"):
        forest.branch("new", "novels", {"code_python": 0.5, "seed": 0.5})
    assert not forest.has_branch("new")


def test_only_a_branch_that_the_tombstone_names_is_merged(words):
    config = compose.compose(words)
    forest = Forest(config.forest_root)
    steps.train(config, "tales")
    removal.remove(forest, "bible")  # names tales
    file = forest.paths.tombstone("bible") / "card.json"
    named = file.read_text()
    file.write_text(named.replace('"tales"', '"others"'))
    with pytest.raises(UserError, match=r"'bible' was removed.*while 'tales' was made of it"):
        steps.merge(config, "tales")
    assert "tales" not in forest
    file.write_text(named)
    assert steps.merge(config, "tales").name == "tales"


def whole(forest, name):
    """Whether an ELM stands with all its files."""
    folder = forest.root / "elms" / name
    return not removal_findings(forest, folder)


def removal_findings(forest, folder):
    return list(verify._model(verify.Look(forest.root, True), folder))


def killed_in_a_fork(count, act):
    """Do `act` in a process that is killed at its call number `count`; return whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork beside torch's threads: the child uses none
        pid = os.fork()
    if not pid:
        gc.disable()  # it would touch, and so copy, all that the tests before have left in memory
        try:
            with killed_at(count, die=lambda: os.kill(os.getpid(), signal.SIGKILL)):
                act()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.slow
def test_killed_between_any_two_calls_it_is_there_or_gone_and_the_rerun_finishes(heirs, tmp_path):
    _, forest = heirs
    begin = shutil.copytree(forest.root, tmp_path / "begin")
    weights = (forest["bible"].path / "model.safetensors").read_bytes()
    killed, count = True, 0
    while killed:
        shutil.rmtree(forest.root)
        shutil.copytree(begin, forest.root)
        killed = killed_in_a_fork(count, lambda: removal.remove(forest, "bible"))
        if tombstone.stands(forest.root, "bible"):
            assert "bible" not in forest
            assert not sums_wrong(forest)
        else:
            assert whole(forest, "bible")
        forest.sweep()
        removal.remove(forest, "bible")
        assert weights not in bytes_of(forest).values()
        assert not list(forest.root.rglob(".tmp-*"))
        assert not verify.verify(forest.root, full=True)
        count += 1
    assert count > 15


def sums_wrong(forest):
    found = verify.verify(forest.root, full=True)
    return [f for f in found if "not finished" not in f.problem and "still there" not in f.problem]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rederivation_killed_anywhere_goes_on_to_the_same_end(heirs, words, tmp_path):
    _, forest = heirs
    config = compose.compose(words)
    begin = shutil.copytree(forest.root, tmp_path / "begin")
    with killed_at(10**9) as left:
        rederive.rederive(config, "speeches")
    expected = {name: forest[name].card.sha256 for name in forest.names()}
    calls = 10**9 - left[0]
    for count in range(20, calls, max(1, calls // 5)):
        shutil.rmtree(forest.root)
        shutil.copytree(begin, forest.root)
        with pytest.raises(KilledError), killed_at(count):
            rederive.rederive(config, "speeches")
        for path in (forest.root / "branches").glob(
            f"*{lease.MARK}*"
        ):  # as the lease of a dead process
            path.rename(path.with_name(lease.name_of(path)))
        rederive.rederive(config, "speeches")
        assert {name: forest[name].card.sha256 for name in forest.names()} == expected, count
        assert not verify.verify(forest.root, full=True)


def test_a_disk_that_refuses_is_told_with_its_path(capsys, words, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    code, _, err = run(capsys, "remove", *words, "expert=bible")
    assert code == 1
    assert "Permission denied" in err
    monkeypatch.undo()
    assert run(capsys, "remove", *words, "expert=bible")[0] == 0
    assert not list(Path(compose.compose(words).forest_root).glob("removed/*/deleting"))


def test_an_average_goes_without_a_tombstone_and_its_name_is_free(capsys, words, heirs):
    _, forest = heirs
    path = forest.root / "averages/uniform"
    sha256 = Card.read(path / "card.json").sha256
    scores = list((forest.root / "scores").glob("*/*.npy"))
    assert any(file.stem == sha256 for file in scores)
    code, out, _ = run(capsys, "remove", *words, "average=uniform", "--dry-run")
    assert (code, path.is_dir()) == (0, True)
    code, _, err = run(capsys, "remove", *words, "average=uniform", "--rederive")
    assert (code, path.is_dir()) == (2, True)
    assert "leave out --rederive" in err
    code, out, err = run(capsys, "remove", *words, "average=uniform", "--json")
    assert code == 0, err
    assert json.loads(out)["removed"] == str(path)
    left = list((forest.root / "scores").glob("*/*.npy"))
    assert {file.stem for file in scores} - {file.stem for file in left} == {sha256}
    assert not path.exists()
    assert not tombstone.names(forest.root)
    assert not verify.verify(forest.root, full=True)
    assert run(capsys, "remove", *words, "average=uniform")[0] == 2
    publish.average(forest, "uniform", {"bible": 1.0})
    (path / "card.json").write_text("{")
    assert run(capsys, "remove", *words, "average=uniform")[0] == 0
    assert not path.exists()
