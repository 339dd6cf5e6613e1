"""Every cell of every notebook runs: on the shared forest, and on one with the demo's settings."""

import json

import pytest
from folders import ROOT

from btm import steps
from btm.cli.compose import compose

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(prepared_demo, tmp_path_factory):
    """A forest of the demo's text, tokenizer, model and windows, with two of its experts: after 120
    steps each knows its own domain so much better that the bound of the notebook is tight.
    """
    words = [f"data.out={prepared_demo}", f"forest={tmp_path_factory.mktemp('demo') / 'forest'}"]
    words += ["experiment=demo", "run.domains=bible,code_python", "run.average=false"]
    words += ["trainer.steps=120", "seed.steps=60", "trainer.compile=never", "eval.domains=bible"]
    config = compose(words)
    steps.run(config)
    return config


@pytest.mark.parametrize("forest", ["grown", "demo"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, forest, request, monkeypatch):
    found = request.getfixturevalue(forest)
    config = found[0] if forest == "grown" else found
    monkeypatch.setenv("BTM_FOREST", config.forest_root)
    monkeypatch.setenv("BTM_SUITE", f"{config.data.out}/{config.data.name}")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    names = {}
    for cell in cells:
        assert not cell["outputs"], "committed without outputs"
        exec("".join(cell["source"]), names)
    if forest == "demo":
        slack = names["best"] + names["np"].log(len(names["experts"])) - names["ensemble"]
        assert 0 <= slack < 1e-3  # a bound that is loose would hold whatever is summed
