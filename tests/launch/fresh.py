"""What is called in a fresh process, one that has imported torch and never used it, as a driver is.

Thread pools do not survive a fork, so the process of the tests itself, which trains, cannot fork
workers.
"""

import itertools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from btm.launch.attempt import Attempt
from btm.launch.engine import Resources
from btm.launch.local import LocalEngine
from btm.launch.records import Records


def attempt(spec, *, prepare=None, stop=False, **options):
    """Do one try at a job and return its outcome; `stop` asks it to stop before it has begun."""
    if prepare is not None:
        prepare()
    made = Attempt(spec, **options)
    if stop:
        made.stop()
    while (outcome := made.poll()) is None:
        time.sleep(0.01)
    return outcome


def library_that_exits():
    """Have torch end the process in the middle of a step, and call it success."""
    import torch

    torch.optim.AdamW.step = lambda *_: os._exit(0)


def library_that_raises_system_exit():
    import torch

    torch.optim.AdamW.step = lambda *_: sys.exit(0)


def clock_that_jumps():
    """Let an hour pass with every look at the clock on the wall."""
    hours = itertools.count(time.time(), 3600.0)
    time.time = lambda: next(hours)


def mirror_that_tells_the_cards():
    """Stand in for wandb, which prints the cards that its process sees."""

    def init(name, **_):
        print(f"{name} sees [{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}]", flush=True)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever cards this machine has
    sys.modules["wandb"] = SimpleNamespace(init=init)


def work_off(config, specs, cores, prepare=None):
    """Let this machine do tries of one verb; return how they ended, and what ran at each look."""
    if prepare is not None:
        prepare()
    engine = LocalEngine(config, cores)
    ids = engine.submit(specs, Resources.of(config.cluster, specs[0].job.verb))
    looks = []
    while engine.running:
        looks.append([(r.cpus, r.memory, tuple(r.cards)) for r in engine.running.values()])
        engine.wait(1.0)
        ends = engine.poll(ids)
    return {id: end.state for id, end in ends.items()}, looks


def cancel_and_close(config, specs):
    """Submit tries, cancel the last of them, then end the engine as soon as the first has saved
    something.
    """
    engine = LocalEngine(config)
    records = Records(Path(config.forest_root))
    ids = engine.submit(specs, Resources.of(config.cluster, specs[0].job.verb))
    engine.cancel(ids[-1:])
    while records.saved(specs[0].job) < 2:
        engine.wait(1.0)
        engine.poll(ids)
    engine.close()
    return {id: (end.state, end.reason) for id, end in engine.poll(ids).items()}
