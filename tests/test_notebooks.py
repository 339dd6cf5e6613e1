"""Every cell of every notebook runs, one after another, as somebody reads them."""

import json
import shutil

import pytest
from folders import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory, prepared_demo):
    """A folder with the demo's text, in which the first notebook grows a forest for the others."""
    place = tmp_path_factory.mktemp("notebooks")
    shutil.copytree(prepared_demo, place / "data")
    return place


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, place, monkeypatch):
    monkeypatch.setenv("BTM_WORK", str(place))
    monkeypatch.chdir(place)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    names = {}
    for cell in cells:
        assert not cell["outputs"], "committed without outputs"
        exec("".join(cell["source"]), names)
