"""Experts that are adapters of one base share its tensors: where they are scored, and where they
write together.
"""

import gc
import shutil

import numpy as np
import pytest
import torch
from drawn_adapters import add, held, own

from btm import steps
from btm.cli.compose import compose
from btm.config.load import LoadConfig
from btm.ensemble import adapters
from btm.ensemble.generate import Ensemble
from btm.forest import Forest, adapter
from btm.models import inference

TOKENS = torch.arange(4, 24)[None]
FP32 = LoadConfig()


@pytest.fixture(scope="module")
def adapted(grown, workspace, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapted") / "forest"
    shutil.copytree(grown[0].forest_root, root)
    forest = Forest(root)
    for number in range(3):
        add(forest, f"a{number}", {"seed": 1.0}, number)
    for number in range(2):
        add(forest, f"of-two{number}", {"bible": 2.0, "code_python": 1.0}, number)
    return [*workspace, f"forest={root}"], forest


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.float()


def test_k_experts_take_the_memory_of_their_base_and_k_adapters(adapted):
    _, forest = adapted
    alone = inference.load(forest["seed"].path, "cpu", FP32)
    base = held([alone])
    factors = own(adapter.read(forest["a0"].path / adapter.FILE).tensors)
    assert 0 < factors < base / 5
    for names in (["a0", "a1", "a2"], ["a0", "seed", "a1", "a2"], ["seed", "a2", "a0", "a1"]):
        loaded = {name: adapters.load(forest[name].path, "cpu", FP32) for name in names}
        assert held(loaded.values()) == base + 3 * factors
        for name, model in loaded.items():
            whole = inference.load(forest[name].path, "cpu", FP32)
            torch.testing.assert_close(logits(model), logits(whole), rtol=0, atol=2e-5)
        # Switched from text to text: one does not change another.
        assert torch.equal(
            logits(loaded["a0"]), logits(adapters.load(forest["a0"].path, "cpu", FP32))
        )
        assert (logits(loaded["a0"]) - logits(loaded["a1"])).abs().max() > 0.01
    del loaded, model, whole
    gc.collect()
    assert not adapters._LOADED  # nothing is kept behind the back of who loaded it


def test_experts_of_several_parents_share_their_average(adapted):
    _, forest = adapted
    base = held([inference.load(forest["seed"].path, "cpu", FP32)])
    loaded = [adapters.load(forest[f"of-two{n}"].path, "cpu", FP32) for n in range(2)]
    factors = own(adapter.read(forest["of-two0"].path / adapter.FILE).tensors)
    assert held(loaded) == base + 2 * factors
    for number, model in enumerate(loaded):
        whole = inference.load(forest[f"of-two{number}"].path, "cpu", FP32)
        torch.testing.assert_close(logits(model), logits(whole), rtol=0, atol=2e-5)


def test_half_precision_is_shared_too_and_others_are_not(adapted):
    _, forest = adapted
    how = LoadConfig(dtype="bf16")
    one, other = (adapters.load(forest[name].path, "cpu", how) for name in ("a0", "a1"))
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}
    single = held([one])
    assert held([one, other]) < 1.2 * single
    assert held([one, adapters.load(forest["a2"].path, "cpu", FP32)]) > 2.5 * single
    whole = logits(adapters.load(forest["a0"].path, "cpu", FP32))
    assert (logits(one) - whole).abs().max() < 0.1 * whole.abs().max()


def test_a_weight_that_is_asked_for_is_the_sum(adapted):
    _, forest = adapted
    model = adapters.load(forest["a0"].path, "cpu", FP32)
    whole = dict(inference.load(forest["a0"].path, "cpu", FP32).named_parameters())
    change = next(iter(adapter.read(forest["a0"].path / adapter.FILE).tensors.values()))
    layer = model.get_submodule(change.module)
    torch.testing.assert_close(layer.weight, whole[f"{change.module}.weight"], rtol=0, atol=1e-6)


def test_without_its_base_an_expert_is_whole(adapted, tmp_path):
    _, forest = adapted
    root = shutil.copytree(forest.root, tmp_path / "forest")
    shutil.rmtree(root / "elms/seed")
    model = adapters.load(Forest(root)["a0"].path, "cpu", FP32)
    assert not hasattr(model, "shares_tensors_of")
    torch.testing.assert_close(
        logits(model), logits(adapters.load(forest["a0"].path, "cpu", FP32)), rtol=0, atol=2e-5
    )


def test_they_write_together_and_are_scored_alike(adapted):
    words, forest = adapted
    members = dict.fromkeys(("a0", "a1", "seed"), 1.0)
    ensemble = Ensemble.load(forest, members)
    factors = own(adapter.read(forest["a0"].path / adapter.FILE).tensors)
    alone = held([inference.load(forest["seed"].path, "cpu", FP32)])
    assert held(ensemble.models.values()) == alone + 2 * factors
    shared = ensemble.read(TOKENS[0].tolist())
    apart = Ensemble(
        {name: inference.load(forest[name].path, "cpu", FP32) for name in members},
        np.log(np.full(3, 1 / 3)),
        0,
    ).read(TOKENS[0].tolist())
    assert np.abs(shared - apart).max() < 1e-4
    config = compose([*words, "score.experts=[a0,a1]", "score.domains=[bible]"])
    found = {path.name[:64]: np.load(path) for path in steps.score(config)}
    assert len(found) == 2 and not adapters._KEPT
    for name in ("a0", "a1"):
        logp = found[forest[name].card.sha256]
        assert np.isfinite(logp).all() and logp.min() < -1
