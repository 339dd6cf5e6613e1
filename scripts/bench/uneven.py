"""Volunteers of uneven speed: processes that run for a share of the time (together.py)."""

import signal
import subprocess
import threading
import time

PERIOD = 0.2  # seconds of running and standing still


def slow_down(process: "subprocess.Popen[bytes]", share: float) -> None:
    """Let a process run for a share of the time from now on; at 1 it is left alone."""
    if share < 1:
        threading.Thread(target=_alternate, args=(process, share), daemon=True).start()


def _alternate(process: "subprocess.Popen[bytes]", share: float) -> None:
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(PERIOD * (1 - share))
        process.send_signal(signal.SIGCONT)
        time.sleep(PERIOD * share)
