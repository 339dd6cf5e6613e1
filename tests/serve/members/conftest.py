"""A forest of which another server runs one expert."""

import shutil
from dataclasses import replace

import pytest


@pytest.fixture(scope="module")
def without(grown, tmp_path_factory):
    """The shared forest without one expert, which the server `running` has."""
    root = tmp_path_factory.mktemp("without") / "forest"
    shutil.copytree(grown[0].forest_root, root)
    shutil.rmtree(root / "elms" / "bible")
    return replace(grown[0], forest=str(root))
