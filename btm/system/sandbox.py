"""Processes for reading files from outside: bounded memory and time, no network, no writing.

A question is a function of btm, written ``package.module:function``, and words for it. Importing
torch and transformers takes seconds, so one process (``python -m btm.system.sandbox``) does that
and forks a box, a limited process, for each question. The function itself calls `close`, once it
knows the limits that suit what it reads. A box answers with one JSON value; nothing that it sends
is ever unpickled.
"""

import atexit
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from btm.errors import UserError
from btm.system.processes import collect_garbage_seldom

_SECONDS = 300  # of elapsed time, unless told otherwise; a box's own limit is on CPU time
_MOST = 1 << 20  # bytes of an answer
# All that a box gets of the environment: nothing in it is a secret of the user's.
_ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "CUDA_VISIBLE_DEVICES",
)
# Python's audit events (PEP 578) for starting processes, connecting and changing files. An audit
# hook cannot be removed again.
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
_NO_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
Answer = dict[str, object]  # {"answer": a JSON value}, {"refused": why} or {"died": of what}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class _Server:
    """The process that forks boxes, and its owner: a fork of this process needs one of its own."""

    process: "subprocess.Popen[bytes]"
    owner: int


_server: _Server | None = None
_lock = threading.Lock()


def start(*modules: str) -> None:
    """Start the process that forks boxes, unless it runs; does not wait for its imports.

    It begins to import `modules`, and what they name in `BEFORE_BOXES`.
    """
    global _server
    if _server is not None and _server.owner == os.getpid() and _server.process.poll() is None:
        return
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    kept = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-P", "-B", "-m", "btm.system.sandbox", *modules],
        env=kept | one_thread | settings | {"TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _server = _Server(process, os.getpid())
    atexit.register(_stop, _server)


def _stop(server: _Server) -> None:
    """End a server when this process ends."""
    if server.owner == os.getpid():
        for pipe in (server.process.stdin, server.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        _kill(server.process)


def ask(question: str, *words: Path | str, seconds: int = _SECONDS) -> Any:
    """Call the function `question` in a box and return its answer.

    `seconds` are of elapsed time. Raises `UserError` with the box's refusal, or if one of its
    limits ended it.
    """
    with _lock:
        start(question.partition(":")[0])
        assert _server is not None
        # The box may have been started in another folder than this process is in now.
        found = [word.absolute() if isinstance(word, Path) else word for word in words]
        line = json.dumps([question, *map(str, found)]).encode() + b"\n"
        try:
            said = _talk(_server.process, line, seconds)
        except BaseException:
            # Else its late answer would be taken for the answer to the next question.
            _kill(_server.process)
            raise
    answer = json.loads(said) if said else {"died": f"more than {seconds} s"}
    if "refused" in answer:
        why = str(answer["refused"])
        for word, place in zip(words, found, strict=True):
            why = why.replace(str(place), str(word))
        raise UserError(why)
    if "answer" not in answer:
        raise UserError(
            f"{words[0]}: reading it took more memory or time than allowed ({answer.get('died')})"
        )
    return answer["answer"]


def _talk(process: "subprocess.Popen[bytes]", line: bytes, seconds: int) -> bytes:
    """Send a line and return the answer; empty if none came in time, or the process died."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        ready = select.select([process.stdout], [], [], seconds)[0]
        said = process.stdout.readline() if ready else b""
    except BrokenPipeError:
        said = b""
    if not said:
        _kill(process)
    return said


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a server and the box it waits for."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def serve(modules: Sequence[str]) -> None:
    """Import `modules`, then fork a box for each line ``[question, words…]`` of stdin and write its
    answer as a line.
    """
    collect_garbage_seldom()
    for module in modules:
        _load(module)
    with os.fdopen(os.dup(1), "wb") as out, os.fdopen(os.dup(0), "rb") as lines:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(null, standard)
        for line in lines:
            question, *words = json.loads(line)
            module, _, name = question.partition(":")
            function = getattr(_load(module), name)
            out.write(json.dumps(_in_a_box(function, words)).encode() + b"\n")
            out.flush()


def _load(module: str) -> ModuleType:
    """Import a module of btm, and what it wants imported before any box is forked."""
    if not module.startswith("btm."):
        raise ValueError(f"{module}: wanted a module of btm")
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "BEFORE_BOXES", ()):
        importlib.import_module(name)
    return loaded


def _in_a_box(question: Callable[..., Any], words: list[str]) -> Answer:
    """Answer a question in a forked box: {"answer"}, {"refused"} or {"died"}."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(_reply(question, words)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read(_MOST)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        answer = json.loads(said)
        return answer if isinstance(answer, dict) else {"died": "no answer"}
    except ValueError:
        return {"died": signal.Signals(-code).name if code < 0 else f"exit code {code}"}


def _reply(question: Callable[..., Any], words: list[str]) -> Answer:
    try:
        return {"answer": question(*words)}
    except UserError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"died": "memory"}
    except BaseException as error:  # a library in Rust panics with one that is no Exception
        if any(words in str(error) for words in _NO_MEMORY):  # as torch says it
            return {"died": "memory"}
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[0][:300] if lines else type(error).__name__
        return {"refused": f"{words[0]}: does not load: {why}"}


def close(
    memory: int, seconds: int, writable: Path | None = None, file_bytes: int | None = None
) -> None:
    """Bound this process for the rest of its life.

    It gets `memory` bytes beyond what it has, `seconds` of CPU time, no process, no connection, and
    may write in the folder `writable` alone: at most `file_bytes` a file, or else `memory` bytes.
    """
    largest = memory if file_bytes is None else file_bytes
    if (held := Path("/proc/self/statm")).exists():  # elsewhere than on Linux memory is not bounded
        pages = int(held.read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + memory)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime) + seconds)
    _limit(resource.RLIMIT_FSIZE, largest if writable else 0)
    _limit(resource.RLIMIT_CORE, 0)
    home = None if writable is None else str(writable.resolve())
    sys.addaudithook(lambda event, words: _audit(event, words, home))


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _audit(event: str, words: tuple[Any, ...], home: str | None) -> None:
    """Raise `PermissionError` for actions that a reading process does not need."""
    if event in _NO or event in _NO_NETWORK:
        raise PermissionError(f"{event} is not allowed while a model from outside is read")
    writes = event == "open" and isinstance(words[2], int) and words[2] & _WRITING
    for place in words[:2] if event in _NO_CHANGE else words[:1] if writes else ():
        inside = home is not None and isinstance(place, str | os.PathLike)
        if isinstance(place, str | bytes | os.PathLike) and not (
            inside and Path(str(place)).resolve().is_relative_to(str(home))
        ):
            raise PermissionError(
                f"writing {place!r} is not allowed while a model from outside is read"
            )


if __name__ == "__main__":
    serve(sys.argv[1:])
