"""How the threads of OpenMP wait for one another: by spinning, until others want the cores.

Threads meet at a barrier after every operation. GNU's libgomp has those that arrive first spin for some milliseconds.
Where each has a core that is soonest: sleeping instead costs a small model a third of its rate. Beside other busy
programs it is ruinous, for who spins takes the core from the very thread that it waits for. So while a training runs,
a watcher looks how long its threads have waited for a core; as long as that is much, libgomp spins hardly at all.

libgomp does so by itself while a process has more threads than there are cores, and asks that anew at each barrier.
So it is given a second team, of threads that sleep. No result depends on any of this. Who sets OMP_WAIT_POLICY or
GOMP_SPINCOUNT has decided; they are left alone, and so is every other OpenMP (docs/performance.md).
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

_LOOK_EVERY = 0.5  # seconds
_MUCH = 0.25  # seconds that all threads together wait for a core in each second: others want the cores
_LITTLE = 0.05  # the same, of a process that has the cores to itself
_PATIENCE = (
    2.0  # seconds of little waiting after which threads spin again; doubles each time that was too soon
)
_MOST_PATIENCE = 60.0
_TASKS = Path("/proc/self/task")


@contextmanager
def considerate() -> Iterator[None]:
    """Let the threads of torch sleep at barriers whenever other programs want the cores, while the block runs."""
    libraries = [] if any(name in os.environ for name in DECIDED_BY) else _libraries()
    if not libraries or not (_TASKS.parent / "schedstat").is_file():
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(libraries, over), name="btm-waiting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class _SecondTeam:
    """Threads that sleep, and are there to be counted: with them libgomp has more threads than there are cores."""

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        self._over, self._made = threading.Event(), threading.Event()
        # A team ends with the thread that began it.
        self._owner = threading.Thread(target=self._own, args=(libraries,), name="btm-team", daemon=True)
        self._owner.start()
        self._made.wait()

    def _own(self, libraries: list[ctypes.CDLL]) -> None:
        for library in libraries:
            begin, harmless = library.GOMP_parallel, library.omp_get_thread_num
            begin.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            begin.restype = None
            begin(ctypes.cast(harmless, ctypes.c_void_p), None, library.omp_get_num_procs() + 1, 0)
        self._made.set()
        self._over.wait()

    def end(self) -> None:
        """Have libgomp count its first team alone again."""
        self._over.set()
        self._owner.join()


def _watch(libraries: list[ctypes.CDLL], over: threading.Event) -> None:
    """Begin a second team when threads wait much for cores, and end it once they have not for a while."""
    team: _SecondTeam | None = None
    patience, quiet, spinning = _PATIENCE, 0.0, 0.0  # seconds
    before = _waited()
    while not over.wait(_LOOK_EVERY):
        now = _waited()
        share = sum(ns - before.get(task, ns) for task, ns in now.items()) / 1e9 / _LOOK_EVERY
        before = now
        quiet = quiet + _LOOK_EVERY if share < _LITTLE else 0.0
        spinning = spinning + _LOOK_EVERY if team is None else 0.0
        if team is None and share > _MUCH:
            # Spinning was tried, and others were still there: try it less often.
            too_soon = spinning < patience
            patience = min(2 * patience, _MOST_PATIENCE) if too_soon else _PATIENCE
            team = _SecondTeam(libraries)
        elif team is not None and quiet >= patience:
            team.end()
            team = None
    if team is not None:
        team.end()


def _waited() -> dict[str, int]:
    """Return the nanoseconds that each other thread of this process has waited for a core; empty if nobody counts."""
    found, own = {}, str(threading.get_native_id())
    with suppress(OSError):
        for task in _TASKS.iterdir():
            if task.name == own:  # a watcher that has to wait for the threads it watches is no sign of others
                continue
            with suppress(OSError, ValueError, IndexError):  # it has ended just now
                found[task.name] = int((task / "schedstat").read_text().split()[1])
    return found


def _libraries() -> list[ctypes.CDLL]:
    """Return every libgomp that this process has loaded: torch brings its own."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    files = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    return [ctypes.CDLL(file) for file in sorted(files) if Path(file).exists()]
