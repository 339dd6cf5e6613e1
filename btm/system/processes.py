"""Processes: signals to stop, the death of a parent, memory that is given back, and how often the
interpreter collects garbage.
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
    """Look for garbage after 50,000 new objects, not after 700 or 2,000 as Python does by itself.

    What an import of torch and transformers makes stays, so to look through it again and again
    finds nothing. For processes of btm's own; a library leaves this to its user.
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
