"""Verbs that change a grown forest are killed at a random change of a file, and done again."""

import shutil

import pytest
from folders import DEMO, ROOT
from launch.processes import Forked, finish

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "scripts" / "bench" / "crash_verbs.py"


@pytest.fixture(scope="module")
def begin(grown, tmp_path_factory):
    """The shared forest and its text, to begin with."""
    folder = tmp_path_factory.mktemp("begin")
    shutil.copytree(grown[0].forest_root, folder / "forest")
    shutil.copytree(grown[0].data.out, folder / "data")
    return folder


VERBS = ["grow", "remove", "compare", "average", "distil", "moe"]


def test_a_killed_verb_ends_as_unbroken_when_it_is_run_again(begin, workspace):
    words = [word for word in workspace if not word.startswith(("forest=", "data.out="))]
    command = ["--begin", begin, "--kills", 1, "--text", DEMO / "code_tcl", "--verbs", *VERBS]
    said = finish(Forked(*command, "--", *words, "merge.force=true", script=SCRIPT), 300)
    for verb, line in zip(VERBS, said.splitlines(), strict=True):
        assert line.startswith(f"{verb}: ") and line.endswith("1 kills, 0 wrong")
