"""Using a forest on the device: scores and generated text are those of the CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from btm import steps
from btm.ensemble.generate import Ensemble
from btm.ensemble.sampling import Sampling
from btm.forest import Forest
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
