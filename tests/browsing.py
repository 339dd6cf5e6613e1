"""A real Chromium (scripts/chromium), driven by a script of a reader."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from folders import ROOT

HOME = Path(os.environ.get("CHROMIUM", ROOT / ".chromium"))
CHROMIUM = shutil.which("chromium") or "chromium"
NODE = next(iter(HOME.glob("node_modules/node-linux-*/bin/node")), "node")


def require():
    """Skip where there is no Chromium; in CI there is one."""
    is_there = (HOME / "node_modules/axe-core").exists() and shutil.which("chromium")
    if not is_there and not os.environ.get("CI"):
        pytest.skip("no Chromium here: scripts/chromium")


def driven(words, asked, timeout=135):
    """Run the script of a reader, for `timeout` seconds at most; where the browser hangs, which it
    does once in many runs beside other work, once more.
    """
    for tries_left in (1, 0):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(words, text=True, start_new_session=True, **pipes) as node:
            try:
                said, wrong = node.communicate(asked, timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)  # the browser too
                if not tries_left:
                    raise
                continue
        assert node.returncode == 0, wrong
        return said
