"""The driver of a cycle on this machine: ``python -m btm.launch FOREST CYCLE``, started by `btm run`."""

import gc
import signal
import sys
import warnings
from pathlib import Path

from btm import lease
from btm.launch import attach
from btm.launch.drive import Driver
from btm.launch.records import Records


def main(forest: str, cycle_id: str) -> int:
    """Drive the cycle until nothing is left to do; return 0 if every job is done, else 1."""
    records = Records(Path(forest))

    def make() -> Driver:
        cycle = records.read_cycle(cycle_id)
        from btm.launch import attempt
        from btm.launch.local import LocalEngine

        attempt.preload(cycle.config.model.config.get("model_type"))
        gc.freeze()  # forks share what is imported by now; a collection would copy it into each
        engine = LocalEngine(cycle.config)
        signal.signal(signal.SIGTERM, lambda *_: attach.request_cancel(records))
        return Driver(cycle, engine, say=lambda text: print(text, flush=True), settle=0.0)

    warnings.filterwarnings("ignore")
    try:
        return 0 if attach.drive(records, make) else 1
    except lease.HeldError:
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
