"""mergekit itself (scripts/mergekit), given the YAML of an average, makes the same model."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from folders import ROOT
from interop.models import make_folder
from safetensors.torch import load_file

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest, publish
from btm.interop import formats

MERGEKIT = Path(os.environ.get("MERGEKIT", ROOT / ".venv-mergekit/bin/mergekit-yaml"))
pytestmark = [pytest.mark.slow, pytest.mark.traced, pytest.mark.timeout(300)]

if not MERGEKIT.exists() and not os.environ.get("CI"):
    pytest.skip("no mergekit here: scripts/mergekit", allow_module_level=True)


def grow(root, tokenizer, tmp_path, **values):
    """A forest of three imported ELMs and an average of them, under a path that YAML could
    misread.
    """
    for name, seed in {"seed": 0, "law": 1, "med": 2}.items():
        folder = make_folder(tmp_path / f"{name}", tokenizer, seed=seed, **values)
        formats.import_model(compose([f"from={folder}", f"forest={root}", f"name={name}"]))
    return publish.average(Forest(root), "deploy", {"law": 0.7, "med": 0.23, "seed": 1 / 3})


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-7)])
def test_mergekit_makes_the_same_average(dtype, tolerance, tokenizer, tmp_path):
    """To 10⁻⁶ of the largest number of a tensor; in bfloat16 to a step, for its sums are rounded
    twice.
    """
    root = tmp_path / "a: #forest"
    average = grow(root, tokenizer, tmp_path, dtype=getattr(torch, dtype))
    recipe = tmp_path / "recipe.yaml"
    words = [f"forest={root}", "average=deploy", "format=mergekit"]
    assert main.main(["export", *words, f"to={recipe}"]) == 0
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [MERGEKIT, recipe, tmp_path / "made"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = {}
    for file in (tmp_path / "made").glob("*.safetensors"):
        theirs |= load_file(file)
    ours = load_file(average / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert theirs[name].dtype == tensor.dtype
        difference = (theirs[name].double() - tensor.double()).abs().max()
        assert difference <= tolerance * tensor.double().abs().max(), name


def test_the_recipe_on_the_screen(tokenizer, tmp_path, capsys):
    from omegaconf import OmegaConf

    grow(tmp_path / "forest", tokenizer, tmp_path)
    words = ["export", f"forest={tmp_path / 'forest'}", "average=deploy", "format=mergekit"]
    capsys.readouterr()
    assert main.main(words) == 0
    recipe = OmegaConf.create(capsys.readouterr().out)
    assert (recipe.merge_method, recipe.dtype) == ("linear", "float32")
    assert sum(model.parameters.weight for model in recipe.models) == pytest.approx(1)
    card = tmp_path / "forest/elms/law/card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": "0" * 64}))
    with pytest.raises(UserError, match="another 'law'"):
        formats.export_model(compose(words[1:]))
