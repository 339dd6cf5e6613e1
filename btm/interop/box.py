"""A process for reading what came from outside: limited in memory and time, without network, writing or processes.

The parent starts it with `run`, the child shuts itself in with `close`, once it has imported what it needs.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import btm
from btm.errors import UserError

_SECONDS = 600  # by the clock; the child's own limit is on CPU time
# What Python's audit events call the ways out: PEP 578. What is forbidden cannot be allowed again.
_NO = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "subprocess.Popen",
)
_NO_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo")
_NO_CHANGE = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "shutil.rmtree",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def run(module: str, *words: Path | str) -> Any:
    """Run ``python -m module words…`` and return the JSON value it answers with.

    Raises `UserError` with what it refused, or if it was killed by one of its limits.
    """
    command = [sys.executable, "-P", "-B", "-m", module, *map(str, words)]
    paths = [str(Path(btm.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"reading it took more than {_SECONDS} s") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(answer, dict)
    except (ValueError, IndexError, AssertionError):
        raise UserError(
            f"reading it took more memory or time than it is given, or failed ({_end(done)})"
        ) from None
    if "refused" in answer:
        raise UserError(str(answer["refused"]))
    return answer["answer"]


def _end(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return how a process ended, in a few words."""
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {done.returncode}"


def close(memory: int, seconds: int, writable: Path | None = None) -> None:
    """Bound this process for the rest of its life.

    It gets `memory` bytes beyond what it has, `seconds` of CPU time, no process, no connection, and may write in the
    folder `writable` alone: at most `memory` bytes a file.
    """
    sys.dont_write_bytecode = True
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * os.sysconf("SC_PAGE_SIZE")
    _limit(resource.RLIMIT_AS, used + memory)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime) + seconds)
    _limit(resource.RLIMIT_FSIZE, memory if writable else 0)
    _limit(resource.RLIMIT_CORE, 0)
    home = None if writable is None else str(writable.resolve())
    sys.addaudithook(lambda event, words: _audit(event, words, home))


def answer(value: Any) -> None:
    """Tell the parent the result."""
    print(json.dumps({"answer": value}), flush=True)


def refuse(why: str) -> None:
    """Tell the parent why there is no result, in one line."""
    print(json.dumps({"refused": " ".join(why.split()) or "it does not load"}), flush=True)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _audit(event: str, words: tuple[Any, ...], home: str | None) -> None:
    """Raise `PermissionError` for what a process that reads has no need of."""
    if event in _NO or event in _NO_NETWORK:
        raise PermissionError(f"{event} is not allowed while reading a model from outside")
    if event in _NO_CHANGE or (event == "open" and isinstance(words[2], int) and words[2] & _WRITING):
        place = words[0]
        inside = home is not None and isinstance(place, str | os.PathLike)
        if not (inside and Path(place).resolve().is_relative_to(str(home))):
            raise PermissionError(f"writing {place!r} is not allowed while reading a model from outside")
