"""What a process asks of the system: signals to stop and the death of a parent, memory to be given
back; and of the interpreter: to collect garbage less often.
"""

import ctypes
import gc
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process `number` when `parent` dies: no job runs unwatched."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os._exit(1)


def collect_garbage_seldom() -> None:
    """Look for garbage after 50,000 new objects, not after 700 as Python does by itself.

    To import torch and transformers makes a million objects that stay, and looking through them is
    a sixth of what it costs. For processes of btm's own; a library leaves this to its user.
    """
    gc.set_threshold(50_000, 20, 20)


def give_back_freed() -> None:
    """Give memory that this process has freed back to the kernel, where the C library can.

    glibc keeps what lies between blocks that are in use: after quantising a model that was three
    times the size of what is left of it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
