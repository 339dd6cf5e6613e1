"""torchrun as a program of its own, started by `job`: ``python -m btm.train.distributed.agent
PARENT SIZE FOLDER``.
"""

import json
import os
import signal
import sys
from pathlib import Path

from btm.system.processes import collect_garbage_seldom, die_with_parent

AGENT = "BTM_AGENT"  # the variable that tells a rank this process


def main(parent: int, size: int, place: str) -> int:
    """Run the ranks; if one dies, end the others and tell which, and how."""
    collect_garbage_seldom()
    die_with_parent(parent, signal.SIGKILL)
    os.environ[AGENT] = str(os.getpid())
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # or a store listens on all interfaces
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    meeting = [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={Path(place, 'meeting')}",
        "--rdzv-conf=store_type=file",
    ]
    processes = ["--nnodes=1", f"--nproc-per-node={size}", "--max-restarts=0"]
    try:
        run.main([*processes, *meeting, "-m", "btm.train.distributed.rank", place])
    except ChildFailedError as error:
        rank, first = min(
            error.failures.items(), key=lambda found: (found[1].exitcode > 0, found[1].timestamp)
        )
        killed_by = signal.Signals(-first.exitcode).name if first.exitcode < 0 else None
        print(json.dumps({"died": rank, "signal": killed_by}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
