"""A seeded sample of scripts/bench/fuzz.py, and that it finds what it looks for."""

import importlib.util
import random
import sys
import time

import pytest
from folders import ROOT

SCRIPT = ROOT / "scripts/bench/fuzz.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz"]


@pytest.mark.slow
def test_no_file_makes_a_reader_fail(script):
    said = []
    outcomes = script.fuzz(1800, seed=1, report=said.append)
    assert not said, said[0]
    for (
        kind
    ) in script.KINDS:  # of each kind some are read and some refused, or it would show nothing
        assert outcomes[f"{kind}: read"] > 0
        assert outcomes[f"{kind}: refused"] > 0 or kind == "model card"
    assert sum(outcomes.values()) == 1800


def broken(world):
    raise KeyError("found")


def careless(world):
    (world.folder / "evil").touch()


def slow(world):
    began = time.process_time()
    while time.process_time() < began + 2.1:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reader", "sign"),
    [(broken, "KeyError: 'found'"), (careless, "written outside the forest"), (slow, "took 2.")],
    ids=["broken", "careless", "slow"],
)
def test_a_reader_that_does_wrong_is_found(script, reader, sign, monkeypatch):
    plant = script.World._plant

    def planted(world):
        plant(world)
        file, change, _ = script.KINDS["card"]
        monkeypatch.setitem(script.KINDS, "card", (file, change, reader))

    monkeypatch.setattr(script.World, "_plant", planted)
    said = []
    outcomes = script.fuzz(len(script.KINDS), seed=1, report=said.append)
    assert any(sign in line for line in said)
    assert any(name.endswith("failed") for name in outcomes)


def test_mutations_change_what_they_are_given(script):
    content = b'{"a": [1, {"b": "c"}]}'
    made = {script.mutate(content, random.Random(seed)) for seed in range(200)}
    assert len(made) > 120
