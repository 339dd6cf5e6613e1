"""Names that would stand for two things at once are refused before anything is made."""

import json
import shutil
from pathlib import Path

import pytest
from folders import DEMO, tree

from btm import steps
from btm.cli import main, preflight
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest
from btm.steps.baselines import derive, ready


@pytest.fixture
def with_seed(workspace, texts, tmp_path):
    """Words of a suite one of whose training domains is called as the seed is."""
    root = shutil.copytree(texts, tmp_path / "texts")
    shutil.copytree(DEMO / "wordnet", root / "seed")
    own = [f"data.root={root}", f"data.out={tmp_path / 'data'}", f"forest={tmp_path / 'forest'}"]
    return [*workspace, *own, "run.rounds=[[bible,seed]]"]


def test_a_domain_called_as_the_seed_is_refused_before_anything_is_written(
    with_seed, tmp_path, capsys
):
    for verb in ("prepare", "run"):
        words = [word for word in with_seed if verb == "run" or "average" not in word]
        assert main.main([verb, *words]) == 2
        assert "a domain is called 'seed', as the seed is" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"give seed\.name=root, or that domain another name"):
        preflight.check("run", compose(with_seed))
    assert not (tmp_path / "data").exists() and not (tmp_path / "forest").exists()
    preflight.check("run", compose([*with_seed, "seed.name=root"]))
    preflight.check("run", compose([*with_seed, "run.rounds=[[bible]]"]))  # it is not grown


def test_nor_is_it_grown_later(copy, grown):
    with pytest.raises(UserError, match="was not trained on a domain 'seed' alone: give the new"):
        steps.new_domain(copy("domain=seed"))
    with pytest.raises(UserError, match="a domain is called 'root', as the seed is"):
        steps.new_domain(copy("domain=root", "seed.name=root"))
    with pytest.raises(UserError, match="has an ELM 'seed' already; give another expert=NAME"):
        steps.branch(copy(), "seed", "bible")


@pytest.mark.parametrize("name", ["grow-perl", "before-perl", "after-perl", "forest-compare"])
def test_an_evaluation_is_not_called_as_what_grow_and_compare_write(workspace, name):
    with pytest.raises(
        UserError, match=f"eval.name={name}: btm grow, compare, mix and bench write"
    ):
        compose([*workspace, f"eval.name={name}"])


@pytest.mark.parametrize("when", ["grow", "before", "after"])
def test_nor_is_a_domain_called_so_that_grow_writes_over_the_forests_own(copy, when, tmp_path):
    root = Path(copy().forest_root).rename(tmp_path / f"{when}-perl")
    with pytest.raises(UserError, match=f"has an evaluation '{when}-perl' of its own"):
        steps.new_domain(compose([f"forest={root}", "domain=perl"]))


@pytest.mark.parametrize("kind", ["dense", "random_split", "demix"])
def test_a_baseline_does_not_grow_in_a_forest_of_its_own(copy, kind):
    config = copy(f"baseline={kind}")
    shutil.copytree(config.base_root, config.forest_root)
    before = tree(config.forest_root)
    with pytest.raises(UserError, match=r"stands a forest of its own \(bible, .*, speeches\)"):
        preflight.check("run", config)
    assert tree(config.forest_root) == before
    assert steps.rivals(copy_of(config)) == []  # and it is compared with as what it is, if asked


def copy_of(config):
    """The forest's own configuration beside a baseline's."""
    return compose([f"forest={config.base_root}"])


def test_a_forest_does_not_grow_in_a_baseline(copy, tmp_path):
    config = copy("baseline=dense")
    dense = shutil.copytree(Path(config.base_root), Path(config.forest_root))
    shutil.rmtree(dense / "elms")
    shutil.copytree(Path(config.base_root) / "elms/seed", dense / "elms/dense")
    card = dense / "elms/dense/card.json"  # as of an older btm: its settings are those of a seed
    card.write_text(json.dumps(json.loads(card.read_bytes()) | {"settings": {}}))
    assert steps.rivals(copy_of(config)) == [(dense, "dense")]
    with pytest.raises(UserError, match=f"-dense is the baseline dense of {config.base_root}"):
        preflight.check("run", copy(f"forest={dense}"))
    preflight.check("run", config)


def test_random_parts_are_not_called_as_the_seed(copy):
    with pytest.raises(UserError, match=r"parts called 'random-0'.*\(seed.name=\)"):
        derive(copy("baseline=random_split", "seed.name=random-0"))


def test_random_parts_are_not_dealt_over_a_suite_of_its_own(copy, grown, tmp_path):
    shutil.copytree(grown[0].data.out, tmp_path / "data")
    own = shutil.copytree(tmp_path / "data/smoke", tmp_path / "data/smoke-random_split")
    before = tree(own)
    config = copy("baseline=random_split", f"data.out={tmp_path / 'data'}")
    with pytest.raises(UserError, match="where a suite of its own stands"):
        ready(config)
    assert tree(own) == before


def test_text_that_is_grown_does_not_replace_a_suite_of_another_name(copy, grown, tmp_path):
    shutil.copytree(grown[0].data.out, tmp_path / "data")
    own = shutil.copytree(tmp_path / "data/smoke", tmp_path / "data/forest-wordnet")
    shutil.rmtree(own / "bible")
    (own / "speeches").rename(own / "wordnet")
    before = tree(own)
    words = [f"data.out={tmp_path / 'data'}", "domain=wordnet", f"from={DEMO / 'wordnet'}"]
    with pytest.raises(UserError, match=r"a suite that .* does not know, of other text than"):
        steps.add_domain(copy(*words))
    assert tree(own) == before
    assert "wordnet" not in Forest(copy().forest_root)
