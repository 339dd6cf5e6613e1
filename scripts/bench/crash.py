"""What survives a crash: kills at random over whole cycles, and a fault at every system call that writes.

    python scripts/bench/crash.py kills --count 1000    SIGKILL the driver and the workers of local cycles
    python scripts/bench/crash.py calls                 a kill, an ENOSPC and an EIO at every mutating call
    python scripts/bench/crash.py calls --sample 60     of 60 (operation, call, fault) drawn at random

Both grow one undisturbed reference cycle of tiny models in --work and hold everything against it. Whatever
is lost, visible by half, corrupt, or left over after the next command is printed and counted; the exit code
is then 1. Figures are kept in <work>/crash.json; a `kills` that was itself stopped goes on from there.

`calls` needs strace (apt install strace). Each operation runs in a fork of this process, which has imported
all it needs, so a fault costs a fraction of a second. docs/reliability.md says what is promised.
"""

import argparse
import ctypes
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from btm import durable, lease, weights
from btm.card import Card
from btm.config import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.launch.drive import Driver
from btm.launch.engine import Status
from btm.launch.records import Records, read_shown

EXPERT = "speeches"  # of the reference cycle: the one with two parents
TEXTS = Path(durable.__file__).parent / "data" / "demo"
DOMAINS = ("bible", "code_python", EXPERT, "novels")


class Workplace(NamedTuple):
    """A folder with texts, their suite, and the reference cycle; everything else in it is scratch."""

    root: Path

    @property
    def reference(self) -> Path:
        """The forest that nothing disturbed."""
        return self.root / "reference"

    def settings(self, forest: Path) -> list[str]:
        """Return the overrides of a cycle small enough to run again and again."""
        return [
            "experiment=smoke",
            f"data.root={self.root / 'texts'}",
            f"data.out={self.root / 'data'}",
            f"forest={forest}",
            f"run.rounds=[[bible,code_python],[{EXPERT}]]",
            "eval.name=all",
            "seed.steps=24",
            "trainer.steps=12",
            "trainer.checkpoint_every=2",
            "trainer.log_every=2",
            "trainer.valid_tokens=512",
            "trainer.threads=1",  # the same bits whatever else runs
            "score.max_tokens=1024",
            "merge.force=true",  # a training of seconds may well be worse than none
            "cluster.retries=1000000",
            "cluster.backoff=0",
        ]

    def btm(self, forest: Path, *flags: str) -> None:
        """Run the command a user would: ``btm run`` on `forest`."""
        command = [sys.executable, "-m", "btm.cli", "run", *self.settings(forest), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"btm run ended with {done.returncode}:\n{done.stderr}")

    def prepare(self) -> None:
        """Grow the reference cycle, unless it stands."""
        if (self.reference / "evals" / "all.json").exists():
            return
        shutil.rmtree(self.reference, ignore_errors=True)
        for domain in DOMAINS:
            shutil.copytree(TEXTS / domain, self.root / "texts" / domain, dirs_exist_ok=True)
        (self.root / "texts" / "suite.json").write_text(json.dumps({"domains": {"novels": {"novel": True}}}))
        self.btm(self.reference)


# What stands on disk, and what is wrong with it.


def tree(root: Path) -> dict[str, str]:
    """Return every file below `root` with its digest, and every empty folder; times of creation do not count."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file():
            content = path.read_bytes()
            if path.name == "card.json":
                content = re.sub(rb'"created": "[^"]+"', b"", content)
            found[name] = hashlib.sha256(content).hexdigest()
        elif not any(path.iterdir()):
            found[name + "/"] = "empty folder"
    return found


def orphans(root: Path) -> list[str]:
    """Return what a process that was killed has left and nobody would ever read: scratch, or a held folder."""
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.name.startswith(".") or lease.MARK in path.name
    ]


def unsound(root: Path) -> list[str]:
    """Return which ELMs and averages are not whole: unreadable card, weights of another size or hash."""
    wrong = []
    for folder in sorted([*root.glob("elms/*"), *root.glob("averages/*")]):
        if folder.name.startswith("."):
            continue
        try:
            card = Card.read(folder / "card.json")
            weights.tensors(folder)
            if card.sha256 != weights.sha256(folder):
                wrong.append(f"corrupt: {folder.name}: card.json names another sha256 than its weights have")
        except (UserError, OSError) as error:
            wrong.append(f"half-visible: {error}")
    return wrong


# Part one: a fault at every mutating system call.

# All by which Linux lets a file or a folder change. What the machine does not have, strace passes over (?).
MUTATING = [
    *("creat", "open", "openat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile"),
    *("copy_file_range", "splice", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "msync"),
    *("sync_file_range", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir"),
    *("mkdirat", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat", "chmod", "fchmod"),
    *("fchmodat", "chown", "fchown", "fchownat", "utime", "utimes", "utimensat", "futimesat", "setxattr"),
]
FAULTS = {"kill": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}
_TRACED = 1_234_567  # what getppid(2) returns once strace is at work: the child begins when it sees that
_ANY_TRACER = ctypes.c_ulong(-1)
_SET_PTRACER = 0x59616D61  # PR_SET_PTRACER of prctl(2): strace is a sibling of what it traces
_WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")


class TraceError(Exception):
    """strace is not there, or may not trace."""


class Call(NamedTuple):
    """One system call: the `nth` of its name since tracing began."""

    name: str
    nth: int
    text: str

    def mutates(self, root: Path) -> bool:
        """Tell whether it changes something below `root`, or makes a change durable."""
        opens = self.name in ("open", "openat")
        return str(root) in self.text and (not opens or _WRITES.search(self.text) is not None)


@dataclass
class Ending:
    """How a child came to its end."""

    signal: int = 0
    error: dict[str, str] | None = None  # what it raised
    calls: list[Call] = field(default_factory=list)  # where it was traced


def perform(act: Callable[[], None], trace: list[str] | None = None) -> Ending:
    """Do `act` in a fork of this process, under strace with the arguments `trace` unless that is None."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _child(act, writer, traced=trace is not None)
    os.close(writer)
    calls = _trace(pid, trace) if trace is not None else []
    with os.fdopen(reader) as said:
        report = said.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Ending(os.WTERMSIG(status), calls=calls)
    return Ending(error=json.loads(report), calls=calls)


def _child(act: Callable[[], None], writer: int, *, traced: bool) -> None:
    error: dict[str, str] | None = {"type": "TraceError", "message": "was never traced", "path": ""}
    try:
        if traced:
            ctypes.CDLL(None).prctl(_SET_PTRACER, _ANY_TRACER, 0, 0, 0)
            deadline = time.monotonic() + 30
            while os.getppid() != _TRACED and time.monotonic() < deadline:
                time.sleep(0.001)
        try:
            act()
            error = None
        except Exception as raised:
            path = getattr(raised, "filename", None) or ""
            error = {"type": type(raised).__name__, "message": str(raised), "path": str(path)}
            error["is_os_error"] = "yes" if isinstance(raised, OSError) else ""
    finally:
        os.write(writer, json.dumps(error).encode())
        os._exit(0)


def _trace(pid: int, arguments: list[str]) -> list[Call]:
    names = ",".join(f"?{name}" for name in MUTATING)
    with tempfile.NamedTemporaryFile("r", prefix="btm-strace-") as log:
        command = ["strace", "-f", "-y", "-s", "0", "-o", log.name, "-p", str(pid)]
        command += ["-e", f"trace={names},getppid", "-e", f"inject=getppid:retval={_TRACED}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = log.read().splitlines()
    if not any("getppid" in line for line in lines):
        os.kill(pid, signal.SIGKILL)
        raise TraceError(f"strace cannot trace here: {' '.join(done.stderr.split())}")
    counted: Counter[str] = Counter()
    calls = []
    for line in lines:
        match = re.match(r"\d+ +(\w+)\(", line)
        if match and match[1] != "getppid":
            counted[match[1]] += 1
            calls.append(Call(match[1], counted[match[1]], line.partition(" ")[2].strip()))
    return calls


@dataclass
class Operation:
    """One operation on a forest, and what may be seen of it while it is under way."""

    name: str
    act: Callable[[Path], None]  # idempotent: it does nothing where its result stands
    begin: Path  # a forest as it stands before
    moved: tuple[str, str] = ("", "")  # folders: what stands in the second at the end stood in the first
    before: dict[str, set[str]] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def record(self, scratch: Path) -> None:
        """Find out what it leaves, and which mutating calls it makes."""
        root = self.copy(scratch)
        legal = visible(root)
        ending = perform(partial(self.act, root), [])
        if ending.error or ending.signal:
            raise RuntimeError(f"{self.name} fails without any fault: {ending}")
        self.calls = [call for call in ending.calls if call.mutates(root)]
        self.after = tree(root)
        for state in (legal, visible(root)):
            for unit, digest in state.items():
                self.before.setdefault(unit, {"absent"}).add(digest)
        for unit, digest in visible(root).items():
            if self.moved[1] and unit.startswith(self.moved[1]):
                pass
        shutil.rmtree(root)

    def copy(self, scratch: Path) -> Path:
        """Return a copy of the forest to begin with, where every copy is."""
        root = scratch / "forest"
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self.begin, root))
