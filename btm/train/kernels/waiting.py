"""How the threads of OpenMP wait for one another: by spinning, until others want the cores.

Threads meet at a barrier after every operation. GNU's libgomp has those that arrive first spin for
some milliseconds. Where each has a core that is soonest: sleeping instead costs a small model a
third of its rate. Beside other busy programs it is ruinous, for who spins takes the core from the
very thread that it waits for. So a watcher looks how long the threads of a training have waited for
a core. Once that is much, they *step aside* for some seconds: libgomp spins hardly at all, and the
threads keep to as many cores as the scheduler gave them, since a thread that shares its core with
another program has all the others wait at each barrier until its turn comes. Then spinning is tried
again.

libgomp stops spinning by itself while a process has more threads than there are cores, and asks
that anew at each barrier. So it is given a second team, of threads that sleep. No result depends on
any of this. Whoever sets one of `DECIDED_BY` is left alone, and so is every other OpenMP
(docs/performance.md).
"""

import ctypes
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DECIDED_BY = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
)

_LOOK_EVERY = 0.5  # seconds
# seconds that all threads together wait for a core in each second: others want the cores
_MUCH = 0.25
_SHARED = 0.8  # of the time of the cores kept to: with less than this, another program is there too
_PATIENCE = 2.0  # seconds aside before spinning is tried again; doubles each time that was too soon
_MOST_PATIENCE = 60.0
_TASKS = Path("/proc/self/task")


@contextmanager
def considerate() -> Iterator[None]:
    """Let the threads of torch sleep at barriers whenever other programs want the cores, while the
    block runs.
    """
    libraries = [] if any(name in os.environ for name in DECIDED_BY) else _libraries()
    if not libraries or not (_TASKS.parent / "schedstat").is_file():
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(libraries, over), name="btm-waiting", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class _SecondTeam:
    """Threads that sleep, and are there to be counted: with them libgomp has more threads than
    there are cores.
    """

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        self._over, self._made = threading.Event(), threading.Event()
        # A team ends with the thread that began it.
        self._owner = threading.Thread(
            target=self._own, args=(libraries,), name="btm-team", daemon=True
        )
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


class _Aside:
    """Threads that sleep at barriers and keep to `count` of the process's cores, until `end`."""

    def __init__(self, libraries: list[ctypes.CDLL], count: int) -> None:
        self.team = _SecondTeam(libraries)
        self.all_cores = os.sched_getaffinity(0)
        self.count = min(max(1, count), len(self.all_cores))
        self.move()

    def move(self) -> None:
        """Keep to other cores, drawn anew: two trainings that step aside must not stay on the
        same.
        """
        _keep_to(set(random.sample(sorted(self.all_cores), self.count)))

    def end(self) -> None:
        """Let the threads spin, on all cores."""
        _keep_to(self.all_cores)
        self.team.end()


def _watch(libraries: list[ctypes.CDLL], over: threading.Event) -> None:
    """Step aside when threads wait much for cores; try again after a while, longer if that was too
    soon.
    """
    aside: _Aside | None = None
    patience, since = _PATIENCE, 0.0  # seconds; `since` the threads began to spin, or stepped aside
    before = _times()
    while not over.wait(_LOOK_EVERY):
        now = _times()
        ran, waited = _seconds(before, now)
        before, since = now, since + _LOOK_EVERY
        if aside is None and waited > _MUCH * _LOOK_EVERY:
            patience = min(2 * patience, _MOST_PATIENCE) if since < patience else _PATIENCE
            aside, since = _Aside(libraries, int(ran / _LOOK_EVERY)), 0.0
        elif aside is not None and since >= patience:
            aside.end()
            aside, since = None, 0.0
        elif aside is not None and ran < _SHARED * aside.count * _LOOK_EVERY:
            aside.move()
    if aside is not None:
        aside.end()


def _keep_to(cores: set[int]) -> None:
    """Let every thread of this process run on these cores alone."""
    for task in _TASKS.iterdir():
        with suppress(OSError):  # it has ended just now, or the cores were taken from the process
            os.sched_setaffinity(int(task.name), cores)


def _times() -> dict[str, tuple[int, int]]:
    """Return the nanoseconds that each other thread of this process has run and has waited for a
    core.
    """
    found, own = {}, str(threading.get_native_id())
    with suppress(OSError):
        for task in _TASKS.iterdir():
            if (
                task.name == own
            ):  # a watcher that has to wait for the threads it watches is no sign of others
                continue
            with suppress(OSError, ValueError, IndexError):  # it has ended just now
                ran, waited = (task / "schedstat").read_text().split()[:2]
                found[task.name] = int(ran), int(waited)
    return found


def _seconds(
    before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]
) -> tuple[float, float]:
    """Return the seconds that the threads have run and waited, together, between two readings."""
    both = [(before[task], now[task]) for task in before.keys() & now.keys()]
    ran = sum(later[0] - earlier[0] for earlier, later in both)
    waited = sum(later[1] - earlier[1] for earlier, later in both)
    return ran / 1e9, waited / 1e9


def _libraries() -> list[ctypes.CDLL]:
    """Return every libgomp that this process has loaded: torch brings its own."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    files = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    return [ctypes.CDLL(file) for file in sorted(files) if Path(file).exists()]
