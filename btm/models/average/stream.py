"""The streaming of weights: threads that read, compute, write and hash one block after another.

Every source is read by position into reused buffers, so memory is a few of those for each thread.
Each result depends on one element of the sources, and blocks are hashed in their order: neither the
number of threads nor the size of a read can change a byte.
"""

import errno
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models import weights as wt
from btm.models.average.layout import Entry, File
from btm.models.average.models import Group, Models
from btm.system import durable

# Elements of one read: with smaller ones Python costs more than the cache gains.
CHUNK = 1 << 18
# Elements per step of a sum over a whole tensor: one number for all, so that its order is fixed.
MEASURE = 1 << 16
BLOCK = 1 << 20  # elements that a thread computes, writes and hashes at a time
_THREADS = 8  # at most, unless more are asked for: disks get no faster with more
_HANDLES = 128  # files that one thread holds open
_PULSE = 1.0  # seconds between two signs of life

Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
# (a tensor in every model, where its elements are read, where the result goes)
Compute = Callable[[Group, "Window", Array], None]


class Window:
    """A stretch of one tensor's elements, read from one source at a time; one per thread."""

    def __init__(self, accumulate: str) -> None:
        """Allocate the buffers; sums are made in `accumulate`, for float64 tensors in float64."""
        self.start = self.count = 0
        self.block = np.empty(BLOCK, np.float64)
        self._accumulate = np.dtype(accumulate)
        self.dtype = self._accumulate
        self._raw = np.empty(max(CHUNK, MEASURE) * 8, np.uint8)
        self._spare: dict[int, NDArray[np.float64]] = {}
        self._handles: OrderedDict[str, int] = OrderedDict()

    def sum_in(self, tensors: Iterable[wt.Tensor]) -> None:
        """Choose the dtype that holds sums over `tensors`."""
        wide = any(tensor.dtype == "F64" for tensor in tensors)
        self.dtype = np.dtype(np.float64) if wide else self._accumulate

    def over(self, size: int, step: int = MEASURE) -> Iterator[None]:
        """Move over `size` elements, `step` at a time, at most `MEASURE`."""
        for self.start in range(0, size, step):
            self.count = min(step, size - self.start)
            yield

    def read(self, tensor: wt.Tensor, into: int = 0) -> Array:
        """Read the window's elements of `tensor`, (count,), into the buffer numbered `into`.

        The result is valid until that buffer is used again.
        """
        out = self.spare(into)
        stored = np.dtype(wt.FLOATS[tensor.dtype])
        if stored == self.dtype:
            self._fill(tensor, out)
        else:
            raw = self._raw[: self.count * stored.itemsize].view(stored)
            self._fill(tensor, raw)
            wt.widen(raw, tensor.dtype, out)
        return out

    def bytes_of(self, tensor: wt.Tensor) -> Array:
        """Read the window's elements of `tensor` as stored; valid until the next read."""
        stored = np.dtype((wt.FLOATS | wt.INTEGERS)[tensor.dtype])
        raw = self._raw[: self.count * stored.itemsize].view(stored)
        self._fill(tensor, raw)
        return raw

    def spare(self, number: int) -> Array:
        """Return buffer `number`, (count,), in the dtype of the sums; its content is undefined."""
        if number not in self._spare:
            self._spare[number] = np.empty(max(CHUNK, MEASURE), np.float64)
        return self._spare[number].view(self.dtype)[: self.count]

    def close(self) -> None:
        """Close the files."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _fill(self, tensor: wt.Tensor, out: Array) -> None:
        view, offset = out.view(np.uint8).data, tensor.offset + self.start * out.itemsize
        while view:
            try:
                got = os.preadv(self._handle(str(tensor.file)), [view], offset)
            except OSError as error:
                error.filename = str(tensor.file)
                raise
            if not got:
                raise UserError(f"{tensor.file}: it was cut short while it was read")
            view, offset = view[got:], offset + got

    def _handle(self, file: str) -> int:
        if file not in self._handles:
            if len(self._handles) == _HANDLES:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._handles.move_to_end(file)
        return self._handles[file]


class Workers:
    """Threads with a window each; the main thread calls `alive` once a second while they work."""

    def __init__(self, threads: int, accumulate: str, alive: Callable[[], None]) -> None:
        """Start `threads` threads."""
        self._pool = ThreadPoolExecutor(threads)
        self._windows = [Window(accumulate) for _ in range(threads)]
        self._alive = alive
        self.stopped = False

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True
        self._pool.shutdown()
        for window in self._windows:
            window.close()

    def map(
        self, function: Callable[[Item, Window], Result], items: Iterable[Item]
    ) -> list[Result]:
        """Call `function(item, window)` on each item; the first error stops all and is raised."""
        source, lock, results = enumerate(items), threading.Lock(), {}

        def work(window: Window) -> None:
            while not self.stopped:
                with lock:
                    taken = next(source, None)
                if taken is None:
                    return
                turn, item = taken
                results[turn] = function(item, window)

        try:
            pending = {self._pool.submit(work, window) for window in self._windows}
            while pending:
                done, pending = wait(pending, _PULSE, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                self._alive()
        except BaseException:
            self.stopped = True
            raise
        return [results[turn] for turn in range(len(results))]

    @contextmanager
    def in_turn(self, queue: "Queue", turn: int) -> Iterator[None]:
        """Wait until all earlier turns are over, then run the block."""
        with queue.changed:
            while queue.turn != turn:
                if self.stopped:
                    raise InterruptedError(errno.EINTR, "another thread failed")
                queue.changed.wait(0.1)
        yield
        with queue.changed:
            queue.turn += 1
            queue.changed.notify_all()


def usual_threads(elements: int) -> int:
    """Choose the number of threads to average `elements`.

    One per core and one more, since one waits to hash; no more than there are blocks.
    """
    return min(len(os.sched_getaffinity(0)) + 1, _THREADS, 1 + elements // BLOCK)


class Queue:
    """The turn that may hash next."""

    def __init__(self) -> None:
        """Begin with turn 0."""
        self.turn = 0
        self.changed = threading.Condition()


def write(file: File, models: Models, compute: Compute, path: Path, workers: Workers) -> str:
    """Write one weight file; return its sha256."""
    digest, queue = hashlib.sha256(file.head), Queue()
    places = [(entry, start) for entry in file.entries for start in range(0, entry.size, BLOCK)]
    blocks = [(turn, entry, start) for turn, (entry, start) in enumerate(places)]
    with path.open("xb") as handle:
        handle.write(file.head)
        handle.flush()

        def make(block: tuple[int, Entry, int], window: Window) -> None:
            turn, entry, start = block
            data = _block(entry, start, models, compute, window)
            offset = entry.offset + start * data.itemsize
            with durable.naming(path):
                durable.write_at(handle.fileno(), data, offset)
            with workers.in_turn(queue, turn):
                digest.update(data.view(np.uint8).data)

        workers.map(make, blocks)
    return digest.hexdigest()


def _block(entry: Entry, start: int, models: Models, compute: Compute, window: Window) -> Array:
    """Compute the elements of one block in their storage dtype."""
    group, count = models.group(entry.name), min(BLOCK, entry.size - start)
    lead = group.tensors[0]
    if not lead.is_float:
        return _integers(group.tensors, start, count, window)
    window.sum_in([*group.tensors, *([group.base] if group.base else [])])
    out = window.block.view(window.dtype)[:count]
    for begin in range(0, count, CHUNK):
        window.start, window.count = start + begin, min(CHUNK, count - begin)
        compute(group, window, out[begin : begin + window.count])
    return _stored(entry, out, lead.dtype)


def _stored(entry: Entry, values: Array, before: str) -> Array:
    """Convert `values` to the entry's dtype; `UserError` if a requested dtype overflows."""
    if entry.dtype == before:
        return wt.narrow(values, entry.dtype)
    with np.errstate(over="ignore"):
        made = wt.narrow(values, entry.dtype)
    if not np.isfinite(wt.to_float64(made, entry.dtype)).all():
        raise UserError(
            f"tensor {entry.name!r} has numbers too large for {entry.dtype}; give another dtype"
        )
    return made


def _integers(tensors: tuple[wt.Tensor, ...], start: int, count: int, window: Window) -> Array:
    """Read one block of a tensor of integers, which all models must share."""
    itemsize = np.dtype(wt.INTEGERS[tensors[0].dtype]).itemsize
    out = window.block.view(np.uint8)[: count * itemsize].view(wt.INTEGERS[tensors[0].dtype])
    for begin in range(0, count, CHUNK):
        window.start, window.count = start + begin, min(CHUNK, count - begin)
        out[begin : begin + window.count] = window.bytes_of(tensors[0])
        for tensor in tensors[1:]:
            if not np.array_equal(window.bytes_of(tensor), out[begin : begin + window.count]):
                raise UserError(
                    f"tensor {tensor.name!r} holds integers that differ: they cannot be averaged"
                )
    return out
