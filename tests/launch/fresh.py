"""What is called in a fresh process, one that has imported torch and never used it, as a driver is.

Thread pools do not survive a fork, so the process of the tests itself, which trains, cannot fork workers.
"""

import os
import sys
import time
from types import SimpleNamespace

from btm.launch.attempt import Attempt


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


def mirror_that_tells_the_cards():
    """Stand in for wandb, which prints the cards that its process sees."""

    def init(name, **_):
        print(f"{name} sees [{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}]", flush=True)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    sys.modules["wandb"] = SimpleNamespace(init=init)
