"""Every cell of every notebook runs, on the shared forest."""

import json

import pytest
from folders import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, grown, monkeypatch):
    monkeypatch.setenv("BTM_FOREST", grown[0].forest_root)
    monkeypatch.setenv("BTM_SUITE", f"{grown[0].data.out}/{grown[0].data.name}")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    names = {}
    for cell in cells:
        assert not cell["outputs"], "committed without outputs"
        exec("".join(cell["source"]), names)
