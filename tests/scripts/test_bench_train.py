"""The loops that the benchmark of training compares train alike: times are for the benchmark,
losses for this test.
"""

import os
import subprocess
import sys

import pytest
from folders import ROOT, uncovered

# Without btm's compiled layers: tests/train/kernels/test_compiled.py compares their losses.
LOOPS = ("btm, not compiled", "btm, plain", "transformers.Trainer", "litgpt")
PEERS = ROOT / ".venv-peers" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_losses_of_every_loop_agree(prepared_demo):
    if not PEERS.exists():
        assert not os.environ.get("CI"), "scripts/peers has not run"
        pytest.skip("scripts/peers makes .venv-peers")
    command = [
        sys.executable,
        "scripts/bench/train.py",
        "--quick",
        "--architecture=llama",  # tests/scripts/test_bench_gpu.py has the other
        f"--only={'; '.join(LOOPS)}",
        f"--data={prepared_demo}",
        f"--peers={PEERS}",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=uncovered(), capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"\n{name} " in done.stdout for name in LOOPS)
    assert done.stdout.count("losses within") == len(LOOPS)
