"""Memory that a training step frees is what the next one needs: the process keeps it.

glibc gives every array beyond 32 MB back to the kernel, which hands it out again page by page, each
zeroed; a small model's step on a CPU spends much of its time on that.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed() -> bool:
    """Let this process reuse what it frees rather than give it back; tell whether its C library can
    do that.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(
        mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    )
