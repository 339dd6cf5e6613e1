"""How bytes come and go: threads that read, compute, write and hash one block after another.

Every source is read by position into buffers that are used again, so memory is a few of those for
each thread. What is computed of an element depends on that element of the sources alone, and the
hash takes blocks in their order: neither threads nor the size of a read can change a byte.
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

CHUNK = (
    1 << 18
)  # elements of one read: smaller ones spend more on Python than their sums gain in the cache
MEASURE = (
    1 << 16
)  # elements that a sum over a whole tensor takes at a time, so that it has one order for all
BLOCK = 1 << 20  # elements that a thread computes, writes and hashes at a time
_THREADS = 8  # at most, unless more are asked for: disks are not faster for more
_HANDLES = 128  # files that one thread holds open
_PULSE = 1.0  # seconds between two signs of life

Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
# (a tensor in every model, where its elements are read, where the result goes)
Compute = Callable[[Group, "Window", Array], None]


class Window:
    """A stretch of one tensor's elements, read from one source at a time; each thread has its
    own.
    """

    def __init__(self, accumulate: str) -> None:
        """Allocate what is read into; sums are made in the dtype `accumulate`, or in float64 where
        that is stored.
        """
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
        """Return the window's elements of `tensor`, (count,), in buffer `into`: valid until that is
        used again.
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
        """Return the window's elements of `tensor` as they are stored; valid until the next
        read.
        """
        stored = np.dtype((wt.FLOATS | wt.INTEGERS)[tensor.dtype])
        raw = self._raw[: self.count * stored.itemsize].view(stored)
        self._fill(tensor, raw)
        return raw

    def spare(self, number: int) -> Array:
        """Return a buffer, (count,), of the dtype of the sums; its content is whatever it was."""
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
    """Threads with a window each; while they work, the main thread tells every second that this is
    alive.
    """

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
        """Return `function(item, window)` of each item; the first error stops all threads and is
        raised.
        """
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
        """Hold the block back until all earlier turns are over."""
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
    """Return how many threads average `elements`: one a core, one more for when one waits to hash;
    little has one.
    """
    return min(len(os.sched_getaffinity(0)) + 1, _THREADS, 1 + elements // BLOCK)


class Queue:
    """Whose turn it is."""

    def __init__(self) -> None:
        """Begin with turn 0."""
        self.turn = 0
        self.changed = threading.Condition()


def write(file: File, models: Models, compute: Compute, path: Path, workers: Workers) -> str:
    """Write one weight file; return its sha256."""
    digest, queue = hashlib.sha256(file.head), Queue()
    blocks = [
        (turn, entry, start)
        for turn, (entry, start) in enumerate(
            (entry, start) for entry in file.entries for start in range(0, entry.size, BLOCK)
        )
    ]
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
    """Return the elements of one block in their storage dtype."""
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
    """Return `values` in the dtype of the entry; `UserError` if they are too large for one that was
    asked for.
    """
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
    """Return one block of a tensor of integers, which all models must share."""
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
