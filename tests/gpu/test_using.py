"""Using a forest on the device: scores and generated text are those of the CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from btm import steps
from btm.config.load import LoadConfig
from btm.data.batches import windows
from btm.ensemble.generate import Ensemble
from btm.forest import Forest
from btm.models import causal_lm


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


def test_models_in_int8(forests, device):
    """The same codes on every device, and so nearly the same scores."""
    pytest.importorskip("bitsandbytes")
    from btm.models import inference, int8

    config, _ = forests
    forest = Forest(config.forest_root)
    shard = steps.open_suite(config).shard("bible", "test")
    found = []
    for where in ("cpu", device):
        model = inference.load(forest["bible"].path, where, LoadConfig("int8"))
        linears = [part for part in model.modules() if isinstance(part, int8.Int8Linear)]
        assert {part.codes.device.type for part in linears} == {where.partition(":")[0]}
        some = windows(shard, config.window, 512)
        inputs, targets = (
            torch.from_numpy(each(0, some.n_windows)).to(where)
            for each in (some.inputs, some.targets)
        )
        with torch.inference_mode():
            logp = causal_lm.token_logp(model, inputs, targets).cpu().numpy()
        found.append(([part.codes.cpu() for part in linears], logp, int8.storage(model).linears))
    (codes, logp, size), (others, there, bytes_there) = found
    assert size == bytes_there
    assert all(torch.equal(a, b) for a, b in zip(codes, others, strict=True))
    np.testing.assert_allclose(there, logp, atol=5e-2)
    assert abs(there.mean() - logp.mean()) < 2e-3


@pytest.mark.parametrize("word", ["bf16", "fp16"])
def test_models_in_16_bits(forests, device, word):
    config, _ = forests
    forest, whole = Forest(config.forest_root), LoadConfig()
    mixed = [
        Ensemble.load(forest, device=device, load=load) for load in (whole, LoadConfig(dtype=word))
    ]
    for ensemble in mixed:
        ensemble.read([17, 4, 9])
    np.testing.assert_allclose(mixed[0].next_logp(), mixed[1].next_logp(), atol=5e-2)
