"""Thirty faults in every run of the tests: what `scripts/bench/crash.py` does by the thousand."""

import importlib.util
import os
import shutil
import sys

import pytest
from folders import ROOT, uncovered_children
from launch.processes import Forked, finish

from btm.system import durable

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "scripts" / "bench" / "crash.py"
SEED = 7
CALLS, KILLS = 24, 6


@pytest.fixture(scope="module")
def crash():
    """The harness as a module."""
    spec = importlib.util.spec_from_file_location("crash", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["crash"]


@pytest.fixture(scope="module")
def place(crash, tmp_path_factory):
    """A place with the undisturbed cycle that both parts compare with."""
    place = crash.Workplace(tmp_path_factory.mktemp("crash"))
    run(place, "kills", "--count", 0)
    return place


def run(place, *words):
    """Run the harness as a person would; coverage would write files of its own between the
    calls.
    """
    with uncovered_children():
        finish(Forked(*words, "--seed", SEED, "--work", place.root, script=SCRIPT), 300)
    return place.kept()


@pytest.mark.timeout(300)
def test_faults_at_mutating_calls_lose_nothing(place):
    if shutil.which("strace") is None:
        reason = "strace is missing (apt install strace): no fault can be injected"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    figures = run(place, "calls", "--sample", CALLS)["calls"]
    assert figures["faults"] == CALLS
    assert figures["wrong"] == []


@pytest.mark.timeout(300)
def test_kills_of_a_cycle_lose_nothing(place):
    figures = run(place, "kills", "--count", KILLS)["kills"]
    assert figures["kills"] >= KILLS
    assert figures["cycles"] >= 1
    assert figures["wrong"] == []
    assert max(figures["recovery"], default=0.0) <= 1.0


def test_what_is_wrong_is_found(crash, place, tmp_path):
    """A check that cannot fail shows nothing: each kind of damage is done, and found."""
    forest = tmp_path / "forest"
    shutil.copytree(place.reference, forest)
    assert list(crash.verify(forest, place.reference)) == []

    (forest / "elms" / "bible" / "config.json").unlink()
    found = set(crash.verify(forest, place.reference))
    assert "lost: elms/bible/config.json" in found

    weights = forest / "elms" / "code_python" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert any(line.startswith("corrupt:") for line in crash.verify(forest, place.reference))
    weights.write_bytes(content[:-1])
    assert any(line.startswith("half-visible:") for line in crash.verify(forest, place.reference))

    durable.scratch_folder(forest / "branches")
    (forest / "branches" / "bible~somebody.1").mkdir()
    orphans = [line for line in crash.verify(forest, place.reference) if line.startswith("orphan:")]
    assert len(orphans) >= 2
