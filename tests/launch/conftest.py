"""Forests in which only the seed stands, and processes that may fork workers."""

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from launch.processes import FORKS

from btm.cli.compose import compose
from btm.launch.records import Records


@pytest.fixture
def plant(grown, workspace, tmp_path):
    """A function that records a cycle in a forest of its own, in which the seed stands already."""
    source = Path(grown[0].forest_root)

    def make(*overrides, name="forest"):
        root = tmp_path / name
        shutil.copytree(source / "tokenizer", root / "tokenizer")
        shutil.copytree(source / "elms" / "seed", root / "elms" / "seed")
        shutil.copy(source / "forest.json", root)
        # Cycles of any trainer.steps go on from it, as from a seed of an older btm: under the words
        # of these tests the seed's own schedule is part of the experts'.
        card = root / "elms" / "seed" / "card.json"
        card.write_text(json.dumps(json.loads(card.read_bytes()) | {"settings": {}}))
        config = compose([*workspace, f"forest={root}", *overrides])
        return Records(root).write_cycle(config, config.run.rounds)

    return make


@pytest.fixture
def fresh():
    """Call a function in a process that has imported torch and run none of it; gives a future."""
    with ProcessPoolExecutor(1, FORKS) as pool:
        yield pool.submit
