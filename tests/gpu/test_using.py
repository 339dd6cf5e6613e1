"""Using a forest on the device: scores and generated text are those of the CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from btm import steps
from btm.ensemble.generate import Ensemble
from btm.forest import Forest


@pytest.fixture(scope="module")
def forests(planted, device):
    """The same forest twice: scored on the device and on the CPU."""
    config = planted("trainer.device=cpu", "run.rounds=[[bible,speeches]]", "trainer.steps=8")
    steps.run(config)
    copy = Path(config.forest_root).with_name("again")
    shutil.copytree(config.forest_root, copy)
    shutil.rmtree(copy / "scores")
    return config, copy


def test_scores_and_evaluation(forests, device):
    config, copy = forests
    there = replace(config, forest=str(copy), trainer=replace(config.trainer, device=device))
    steps.eval_forest(there)
    files = sorted((copy / "scores").rglob("*.npy"))
    assert len(files) >= 3, "a file for each model"
    for file in files:
        first = Path(config.forest_root) / file.relative_to(copy)
        np.testing.assert_allclose(np.load(file), np.load(first), atol=2e-2)


def test_generated_text(forests, device):
    config, _ = forests
    forest = Forest(config.forest_root)
    mixed = [Ensemble.load(forest, device=where) for where in ("cpu", device)]
    for ensemble in mixed:
        ensemble.read([17, 4, 9])
    np.testing.assert_allclose(mixed[0].next_logp(), mixed[1].next_logp(), atol=2e-2)
