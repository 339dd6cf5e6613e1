"""The benchmark of discovery runs, on little text, and says what it measured on."""

import re
import subprocess
import sys

import pytest
from folders import ROOT, uncovered


@pytest.mark.slow
def test_it_measures_every_part(tmp_path):
    few = ["--documents", "300", "--sample", "200", "-k", "3", "5", "--scratch", str(tmp_path)]
    command = [sys.executable, "scripts/bench/discover.py", *few]
    done = subprocess.run(
        command, cwd=ROOT, env=uncovered(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"300 documents of .*demo: \d+ whole ones, \d+ cut from longer ones", done.stdout
    )
    for part in ("fit: features", "fit: centres, k=3", "assign, k=5", "stream, k=3", "stream, k=5"):
        assert re.search(rf"^{part}: [\d,]+ documents/s", done.stdout, re.MULTILINE)
    assert "balance, k=3: 100 to 100, 0.000%" in done.stdout
    assert not list(tmp_path.iterdir())
