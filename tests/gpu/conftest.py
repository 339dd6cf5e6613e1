"""The device under test: the GPU; the CPU under `scripts/gpu --dry`, which takes the same paths."""

import json
import os
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from btm import steps
from btm.cli.compose import compose
from btm.forest import Forest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device():
    """BTM_GPU_DEVICE is scripts/gpu's word; a plain pytest takes a GPU, or leaves these tests out."""
    named = os.environ.get("BTM_GPU_DEVICE")
    if named is None and not torch.cuda.is_available():
        pytest.skip("no GPU here: scripts/gpu --dry runs these on the CPU")
    return named or "cuda"


@dataclass
class Trained:
    """A seed, its losses by step, its weights and what its card says."""

    forest: Forest
    losses: list[float]
    card: dict = field(repr=False)
    weights: dict = field(repr=False)


@pytest.fixture(scope="session")
def planted(workspace, tmp_path_factory, device):
    """A function from overrides to the configuration of a forest of its own, text prepared."""
    root, number = tmp_path_factory.mktemp("gpu"), count()

    def plant(*overrides):
        words = ["seed.steps=12", "trainer.lr=3e-3", "trainer.valid_tokens=512", *overrides]
        place = f"forest={root / str(next(number))}"
        config = compose([*workspace, f"trainer.device={device}", *words, place])
        steps.prepare(config)
        return config

    return plant


@pytest.fixture(scope="session")
def train(planted):
    """A function that trains a seed under overrides."""

    def run(*overrides):
        return trained(planted(*overrides))

    return run


def trained(config):
    steps.seed(config)
    folder = Path(config.forest_root) / "elms" / "seed"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Trained(
        Forest(config.forest_root),
        [line["loss"] for line in lines],
        json.loads((folder / "card.json").read_text()),
        load_file(folder / "model.safetensors"),
    )


@pytest.fixture(scope="session")
def reference(train):
    """What the CPU comes to in float32 without any kernel: every other way is held against it."""
    return train("trainer.device=cpu", "trainer.precision=fp32", "trainer.kernels=false")
