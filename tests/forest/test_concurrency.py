"""Many processes at one forest: every merge is accounted for, none is lost."""

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from folders import uncovered

from btm import steps
from btm.data.tokenizer import tokenizer_sha256
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.card import Card
from btm.models import causal_lm, weights

NAMES = 128
MERGING = Path(__file__).parents[1] / "merging.py"
PLANTING = Path(__file__).parents[1] / "planting.py"


@pytest.fixture
def branches(copy):
    """A forest with hundreds of trained branches, copies of one that was really trained."""
    config = copy("branch=copy", "trainer.steps=2", "trainer.checkpoint_every=1")
    steps.branch(config, "new", "bible")
    trained = steps.train(config, "new").path
    forest = Forest(config.forest_root)
    for number in range(NAMES):
        target = trained.with_name(f"new{number:04}")
        shutil.copytree(
            trained, target, copy_function=lambda source, to: Path(to).hardlink_to(source)
        )
    shutil.rmtree(trained)
    return forest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixty_four_processes_merge_hundreds_of_names(branches, tmp_path):
    earlier = set(branches.names())
    results = tmp_path / "results"
    results.mkdir()
    done = subprocess.run(
        [sys.executable, MERGING, branches.root, results, "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    codes = Counter(json.loads(done.stdout))
    killed = -signal.SIGVTALRM
    assert set(codes) == {0, killed}, done.stderr

    answers = [
        json.loads(line) for file in results.iterdir() for line in file.read_text().splitlines()
    ]
    won = Counter(name for name, answer in answers if name == answer)
    assert won.most_common(1)[0][1] == 1, "two processes both say that they merged it"
    refused = {answer.partition(":")[2] for name, answer in answers if name != answer}
    clear = ("already", "merged", "another process", "no branch", "is an ELM of")
    assert all(any(word in reason for word in clear) for reason in refused), refused
    in_forest = set(branches.names()) - earlier
    assert set(won) <= in_forest, "a merge was reported, and lost"

    branches.sweep()  # and what the killed ones held is merged by the next command
    for branch in branches.branches():
        branches.merge(branch)
    branches.sweep()
    assert set(branches.names()) - earlier == {f"new{number:04}" for number in range(NAMES)}
    assert not list((branches.root / "branches").iterdir())
    assert not list(branches.root.rglob(".tmp-*"))
    sha256 = Card.read(branches.root / "elms/new0000/card.json").sha256
    for name in in_forest:
        folder = branches.root / "elms" / name
        assert Card.read(folder / "card.json").sha256 == sha256
        assert not list(folder.glob("checkpoint-*"))
    assert weights.sha256(branches.root / f"elms/new{NAMES - 1:04}") == sha256


@pytest.mark.slow
def test_of_processes_that_plant_at_once_each_gets_what_it_asked_for_or_is_refused(
    forest, tmp_path
):
    other = shutil.copytree(forest.tokenizer, tmp_path / "other")
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"Ġthe"', '"Ġthé"'))
    done = subprocess.run(
        [sys.executable, PLANTING, tmp_path / "roots", forest.tokenizer, other],
        env=uncovered(),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 4 * 4
    for root in (tmp_path / "roots").iterdir():
        facts = Forest(root).facts
        planted = [facts["architecture"], facts["tokenizer_sha256"]]
        assert tokenizer_sha256(root / "tokenizer") == planted[1]
        got = [answer for place, answer in answers if place == int(root.name)]
        assert all(answer == planted or "another" in answer for answer in got), got
        assert sum(answer == planted for answer in got) == 1
        assert not list(root.glob(".tmp-*"))


def test_a_tokenizer_that_a_killed_planting_left_is_not_taken_for_another(forest, tmp_path):
    other = shutil.copytree(forest.tokenizer, tmp_path / "root" / "tokenizer")
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"Ġthe"', '"Ġthé"'))
    architecture = causal_lm.load_config(forest["seed"].path)
    sha256 = forest.facts["tokenizer_sha256"]
    with pytest.raises(UserError, match=r"another tokenizer .* was killed while it did"):
        Forest.create(tmp_path / "root", architecture, forest.tokenizer, sha256)
    assert not Forest.stands(tmp_path / "root")
