"""Tab is pressed in real shells on a terminal, and the line that comes of it is read."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest
from folders import ROOT

SHELLS = {  # how it is started, and what makes it complete
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(btm completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit; compinit -u -D; source <(btm completion zsh)",
    ),
    "fish": (["fish", "--no-config", "-i"], "btm completion fish | source"),
}
LINES = {  # typed before Tab: the line after it
    "btm trai": "btm train",
    "btm show forest=experts/mine expert=l": "btm show forest=experts/mine expert=law",
    "btm average forest=experts/mine weights=law:1,m": "btm average forest=experts/mine weights=law:1,med:",
}
_PATIENCE = 60  # seconds


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, command, environ, folder):
        self.ours, theirs = pty.openpty()
        self.shell = subprocess.Popen(
            ["setsid", "--ctty", *command],  # fish insists on a terminal that controls it
            cwd=folder,
            env=environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.said = ""

    def type(self, text):
        os.write(self.ours, text.encode())

    def wait_for(self, text):
        """Read until `text` is said, and forget all up to it."""
        end = time.monotonic() + _PATIENCE
        while text not in self.said:
            assert time.monotonic() < end, f"{text!r} was not said: {self.said!r}"
            if select.select([self.ours], [], [], 1)[0]:
                self.said += os.read(self.ours, 65536).decode(errors="replace")
        before, _, self.said = self.said.partition(text)
        return before

    def close(self):
        self.shell.kill()
        self.shell.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(request, tmp_path):
    command, completing = SHELLS[request.param]
    if shutil.which(request.param) is None and not os.environ.get("CI"):
        pytest.skip(f"apt install {request.param}")
    for name in ("law", "med"):
        (tmp_path / f"experts/mine/elms/{name}").mkdir(parents=True)
    program = tmp_path / "bin/btm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m btm.cli "$@"\n')
    program.chmod(0o755)
    environ = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }
    opened = Terminal(command, environ, tmp_path)
    try:
        opened.type(completing + '; echo rea""dy\n')
        opened.wait_for("ready")
        yield opened
    finally:
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("terminal", SHELLS, indirect=True)
def test_tab_completes(terminal):
    for typed, wanted in LINES.items():
        # Ctrl-A and Ctrl-E go to the ends of the line, which is put in quotes to be printed.
        terminal.type(f"{typed}\t\x01printf '<%s>\\n' '\x05'\n")
        terminal.wait_for("\n<")
        assert terminal.wait_for(">").rstrip() == wanted
