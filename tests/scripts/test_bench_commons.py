"""The simulation of a commons, at its smallest: everything wanted is admitted once, in spite of
failures and of those who cheat.
"""

import json
import subprocess
import sys

import pytest
from folders import ROOT


@pytest.mark.slow
def test_volunteers_come_and_go_until_all_is_admitted():
    program = [sys.executable, ROOT / "scripts/bench/commons.py", "--malicious=0.3", "--hours=1"]
    program += ["--volunteers=24", "--experts=16", "--gap=3600", "--failures=0.02", "--most=48"]
    ran = subprocess.run(program, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found["admitted"] == found["wanted"] == 16  # it stops where one is admitted twice
    assert found["taken over"] > 0 and found["requests that failed"] > 0
    assert found["rejected by the gate"] > 0
    assert found["claims before the lease was over, none of which held"] > 0
