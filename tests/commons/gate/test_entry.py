"""What was admitted enters the forest by the ordinary branch and merge, with its losses."""

import re
import shutil
from dataclasses import replace

import pytest
from commons_door import POLICY
from folders import ROOT

from btm.commons.gate import Check, enter
from btm.errors import UserError
from btm.forest import Forest
from btm.models import weights


@pytest.fixture
def forest(door, tmp_path):
    """A copy of the forest, which something may enter."""
    shutil.copytree(door.reference.forest.root, tmp_path / "forest")
    return Forest(tmp_path / "forest")


@pytest.fixture(scope="module")
def admitted(door, tmp_path_factory):
    """A contribution, its verdict and the restored model."""
    into = tmp_path_factory.mktemp("admitted") / "model"
    contribution = door.contribution(door.difference, "delta8")
    return contribution, into, door.judge(contribution, into=into)


def test_it_enters_with_the_losses_that_were_measured(forest, admitted):
    contribution, restored, verdict = admitted
    elm = enter(forest, "speeches-2", contribution, restored, verdict)
    assert weights.sha256(elm.path) == elm.card.sha256 == verdict.sha256
    assert elm.card.valid_nats == verdict.valid_nats
    assert elm.card.parent_valid_nats == verdict.parent_valid_nats
    assert {name: p.raw for name, p in elm.card.parents.items()} == contribution.parents
    assert elm.card.domains == ["speeches"] and elm.card.steps == 12
    assert "memorisation: recites at most" in elm.card.notes[1]
    assert forest.branches() == []
    assert enter(forest, "speeches-2", contribution, restored, verdict).card == elm.card


def test_an_entry_that_was_stopped_before_its_merge_goes_on(forest, admitted):
    contribution, restored, verdict = admitted
    with pytest.raises(AttributeError):  # in the merge, which needs the terms first of all
        enter(forest, "speeches-2", contribution, restored, verdict, terms=None)
    assert forest.has_branch("speeches-2") and "speeches-2" not in forest
    assert enter(forest, "speeches-2", contribution, restored, verdict).name == "speeches-2"


def test_what_was_refused_or_is_not_what_was_judged_does_not_enter(forest, admitted):
    contribution, restored, verdict = admitted
    refused = replace(verdict, checks=[Check("own", False, "worse")])
    with pytest.raises(UserError, match="not admitted: own: worse"):
        enter(forest, "new", contribution, restored, refused)
    with pytest.raises(UserError, match="not admitted"):
        enter(forest, "new", contribution, restored, replace(verdict, complete=False))
    with pytest.raises(UserError, match="other weights than were judged"):
        enter(forest, "new", contribution, restored, replace(verdict, sha256="0" * 64))
    with pytest.raises(UserError, match="has an ELM 'bible' already"):
        enter(forest, "bible", contribution, restored, verdict)


def test_the_page_of_the_gate_runs(door, forest, tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/gate.md").read_text(), re.DOTALL)[1]
    for shown, there in {
        '"law"': '"speeches"',
        '{"seed": 1.0}': str(door.parents),
        "Policy()": "policy",
    }.items():
        assert shown in code
        code = code.replace(shown, there)
    made = {
        "config": door.reference.config,
        "forest": forest,
        "folder": door.difference,
        "suite": door.reference.suite,
        "quarantine": tmp_path / "quarantine",
        "policy": POLICY,
    }
    exec(code, made)
    assert forest["law-2"].card.sha256 == made["verdict"].sha256
