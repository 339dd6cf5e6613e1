"""Every method that mergekit has, on the same files, equal to mergekit's result."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from folders import ROOT
from safetensors.numpy import load_file, save_file

from btm.config.training import ModelConfig
from btm.models import average, causal_lm, configs
from btm.models.average import sparse

pytestmark = [pytest.mark.slow, pytest.mark.traced]

PYTHON = ROOT / ".venv-mergekit/bin/python"
if not PYTHON.exists() and not os.environ.get("CI"):
    pytest.skip("no mergekit here: scripts/mergekit", allow_module_level=True)

DENSITY, WEIGHTS, NEGATED = 0.4, [0.5, 1.0, 0.8], [0.5, -1.0, -0.3]
# name: (settings of btm, method of mergekit, its parameters); weights, and densities where they are
# read, are added
CASES = {
    "linear": ({}, "linear", {}),
    "task_arithmetic": ({"scale": 0.7}, "task_arithmetic", {"lambda": 0.7}),
    "task_arithmetic, negated": ({}, "task_arithmetic", {}),
    "dare_linear, negated": ({"rescale": "l1"}, "dare_linear", {}),
    "dare_ties, negated": ({"rescale": "l1"}, "dare_ties", {}),
    "breadcrumbs, negated": ({"gamma": 0.05}, "breadcrumbs", {"gamma": 0.05}),
    "ties": ({"scale": 1.3}, "ties", {"lambda": 1.3}),
    "breadcrumbs": ({"gamma": 0.05}, "breadcrumbs", {"gamma": 0.05}),
    "slerp": ({"t": 0.3}, "slerp", {"t": 0.3}),
    "model_stock": ({}, "model_stock", {}),
    "dare_linear": ({"rescale": "l1"}, "dare_linear", {}),
    "dare_ties": ({"rescale": "l1"}, "dare_ties", {}),
}
# mergekit draws with torch.bernoulli, one tensor of one model after another; here it is dealt btm's
# masks instead, told apart by the values they are drawn for.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
import mergekit.sparsify
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

folder = Path(sys.argv[1])
masks = np.load(folder / "masks.npz")
plain = mergekit.sparsify.bernoulli

def dealt(tensor, density, rescale_norm=None):
    key = f"{tensor.numel()}/{float(tensor.double().sum()):.6e}"
    mask = torch.from_numpy(masks[key]).reshape(tensor.shape).to(tensor.dtype)
    return mergekit.sparsify.rescaled_masked_tensor(tensor, mask, rescale_norm)

mergekit.sparsify.bernoulli = dealt
for name, config in json.loads((folder / "cases.json").read_text()).items():
    options = MergeOptions(copy_tokenizer=False, allow_crimes=True)
    run_merge(MergeConfiguration.model_validate(config), str(folder / f"mergekit-{name}"), options)
"""


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A folder with a base, three models and mergekit's result of every case."""
    folder = tmp_path_factory.mktemp("mergekit")
    config = configs.make_config(
        ModelConfig(config={"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                            "num_attention_heads": 2}), vocab_size=300, eos=0)  # fmt: skip
    base = causal_lm.new_model(config, 0)
    base.save_pretrained(folder / "base")
    rng = np.random.default_rng(0)
    origin, masks = load_file(folder / "base/model.safetensors"), {}
    for name in "abc":
        base.save_pretrained(folder / name)
        moved = {k: v + 0.02 * rng.standard_normal(v.shape, np.float32) for k, v in origin.items()}
        save_file(moved, folder / name / "model.safetensors", {"format": "pt"})
        for key, value in moved.items():
            delta = torch.from_numpy(value) - torch.from_numpy(origin[key])
            mask = sparse.random_mask(f"0/{name}/{key}", 0, value.size, DENSITY)
            masks[f"{value.size}/{float(delta.double().sum()):.6e}"] = mask
    np.savez(folder / "masks.npz", **masks)
    (folder / "cases.json").write_text(json.dumps({name: recipe(folder, name) for name in CASES}))
    done = subprocess.run([PYTHON, "-c", SCRIPT, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def taken(name):
    return "a" if name == "slerp" else "abc"


def weights_of(name):
    return NEGATED if name.endswith("negated") else WEIGHTS


def recipe(folder, name):
    """The case as mergekit's YAML has it."""
    _, method, parameters = CASES[name]
    own = (
        {"density": DENSITY}
        if method in ("ties", "breadcrumbs", "dare_linear", "dare_ties")
        else {}
    )
    if method == "breadcrumbs":
        own |= {"gamma": parameters["gamma"]}
    shared = {k: v for k, v in parameters.items() if k != "gamma"}
    weighted = method not in ("slerp", "model_stock")
    entries = [
        {"model": str(folder / model), "parameters": own | ({"weight": weight} if weighted else {})}
        for model, weight in zip(taken(name), weights_of(name), strict=False)
    ]
    made = {"merge_method": method, "models": entries, "parameters": shared, "dtype": "float32"}
    if method != "linear":
        made |= {"base_model": str(folder / "base")}
    if method in ("slerp", "model_stock"):
        made["models"] = [{"model": str(folder / "base")}, *entries]
    return made


@pytest.mark.parametrize("name", CASES)
def test_equal_to_mergekit(name, merged, tmp_path):
    settings, method, _ = CASES[name]
    base = None if method == "linear" else merged / "base"
    chosen = average.Settings(method=method, base=base, density=DENSITY, **settings)
    average.average(
        {merged / m: w for m, w in zip(taken(name), weights_of(name), strict=False)},
        tmp_path,
        settings=chosen,
    )
    ours, theirs = (
        load_file(tmp_path / "model.safetensors"),
        load_file(merged / f"mergekit-{name}/model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_allclose(
            ours[key], value, rtol=0, atol=1e-6 * np.abs(value).max(), err_msg=key
        )
