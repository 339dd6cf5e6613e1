"""fairseq-train, run by the interpreter that has fairseq: ``python entry.py PARENT [options of
fairseq-train]``.

Nothing of fairseq is changed but what a job needs of it: SIGTERM has it save a checkpoint after the
update at hand and end, and it dies with the process PARENT, so that no training goes on which
nobody watches. This file imports nothing of btm, whose packages that interpreter need not have, and
keeps to the Python that older ones speak.
"""

import ctypes
import json
import os
import platform
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> None:
    """Train, as the options say."""
    del sys.path[0]  # this folder, whose modules are none that fairseq means
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this training is gone")
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))

    from fairseq_cli import train

    versions = {name: sys.modules[name].__version__ for name in ("fairseq", "torch")}
    print(json.dumps({**versions, "python": platform.python_version()}), flush=True)
    stops_early = train.should_stop_early
    train.should_stop_early = lambda cfg, loss: bool(asked) or stops_early(cfg, loss)
    train.cli_main()


if __name__ == "__main__":
    main()
