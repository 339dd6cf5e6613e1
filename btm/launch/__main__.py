"""The driver of a cycle on this machine: ``python -m btm.launch FOREST CYCLE``.

`btm run` starts it.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

from btm.launch import attach
from btm.launch.drive import Driver
from btm.launch.local import LocalEngine
from btm.launch.records import Records
from btm.system import lease
from btm.system.processes import collect_garbage_seldom


def main(forest: str, cycle_id: str) -> int:
    """Drive the cycle until nothing is left to do; return 0, or 1 if another driver is at work."""
    collect_garbage_seldom()
    records = Records(Path(forest))

    def make() -> Driver:
        cycle = records.read_cycle(cycle_id)
        engine = LocalEngine(cycle.config)
        signal.signal(signal.SIGTERM, lambda *_: attach.request_cancel(records))
        return Driver(cycle, engine, say=lambda text: print(text, flush=True), settle=0.0)

    warnings.filterwarnings("ignore")
    try:
        attach.drive(records, make)
    except lease.HeldError:
        return 1
    return 0


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # the starter need not wait, and no zombie is left
    os.setsid()  # the driver leads a session; its workers are the other processes in it
    sys.exit(main(*sys.argv[1:]))
