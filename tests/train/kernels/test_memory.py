"""What a process frees, it keeps."""

import subprocess
import sys

import pytest
from folders import uncovered

CODE = """
import resource, sys
import torch
from btm.train.kernels import memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert memory.keep_freed()
def work():
    kept = [torch.ones(2**n) for n in (24, 25, 23, 24)]  # 32 to 128 MB
for _ in range(6):  # glibc wants some room beyond what it has handed out before
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_is_not_asked_for_again():
    pages = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", CODE, how], env=uncovered(), capture_output=True, check=True
            ).stdout
        )
        for how in ("keep", "give")
    }
    assert pages["give"] > 100  # of 2 MB, or many more of 4 KB
    assert pages["keep"] < pages["give"] / 10
