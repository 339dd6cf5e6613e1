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
from btm.ensemble.sampling import Sampling
from btm.forest import Forest
from btm.models import causal_lm
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.request import Prompt, Request, Token


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


def test_many_texts_served_at_once(forests, device):
    """Scores of prompts that are read together, by every rule, are those of the CPU."""
    config, _ = forests
    found = []
    for where in ("cpu", device):
        engine = Engine(Catalog(replace(config, trainer=replace(config.trainer, device=where))))
        prompts: dict[int, Prompt] = {}
        written: dict[int, int] = {}
        for i, model in enumerate(("forest", "forest:gated", "bible")):

            def listen(event, i=i, prompts=prompts, written=written):
                if isinstance(event, Prompt):
                    prompts[i] = event
                elif isinstance(event, Token):
                    written[i] = written.get(i, 0) + 1

            text = tuple(range(3, 9 + 5 * i))
            sampling = Sampling(temperature=0)
            request = Request(model, text, 6, sampling, ignore_ends=True, score_prompt=True)
            engine.members.wait(engine.catalog.find(model))
            engine.submit(request, listen)
        while engine.counts().waiting or engine.counts().running:
            engine.step()
        engine.close()
        assert written == {0: 6, 1: 6, 2: 6}
        found.append([token.logp for i in range(3) for token in prompts[i].tokens])
    np.testing.assert_allclose(found[0], found[1], atol=2e-2)


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
