"""An object store in memory with the semantics of S3, for simulations and tests of the commons.

An object appears whole, with the time of the store's own clock, down to seconds as S3 has it; a
conditional write succeeds where none stands. `fault` may delay a request or fail it.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from btm.interop.remote.manifest import Content
from btm.interop.remote.places import Seen, Stat, Told
from btm.interop.remote.urls import Url

MEMORY = Url("from", "s3://memory/commons", "s3", "memory/commons")


@dataclass
class MemoryStore:
    """Objects by key; all stores that share `objects` are one store."""

    clock: Callable[[], float]
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    fault: Callable[[str], None] = lambda request: None
    url: Url = MEMORY
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _written(self) -> float:
        return float(math.floor(self.clock()))

    def read(self, key: str, most: int) -> Seen | None:
        """Read a small object; None if there is none."""
        self.fault("get")
        found = self.objects.get(key)
        if found is None:
            return None
        return Seen(found[0][: most + 1], hashlib.sha256(found[0]).hexdigest())

    def read_many(self, keys: Iterable[str], most: int) -> list[bytes | None]:
        """Read small objects; None for one that is not there."""
        found = [self.read(key, most) for key in keys]
        return [None if seen is None else seen.content for seen in found]

    def stats(self, key: str) -> dict[str, Stat]:
        """List the objects below a folder, with their bytes and times."""
        self.fault("list")
        home = f"{key}/"
        with self.lock:
            return {
                name.removeprefix(home): Stat(len(content), written)
                for name, (content, written) in self.objects.items()
                if name.startswith(home)
            }

    def create(self, key: str, content: bytes) -> bool:
        """Write a small object; return False, with nothing written, if one stands there."""
        self.fault("put")
        with self.lock:
            if key in self.objects:
                return False
            self.objects[key] = content, self._written()
        return True

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, over whatever stands there."""
        self.fault("put")
        with self.lock:
            self.objects[key] = content, self._written()

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.fault("delete")
        with self.lock:
            self.objects.pop(key, None)

    def send(self, file: Path, key: str, expected: Content, told: Told) -> None:
        """Write a file."""
        self.put(key, file.read_bytes())
        told(expected.size)

    def fetch(self, key: str, begin: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `begin` up to `size` and one more, if there is."""
        self.fault("get")
        yield self.objects[key][0][begin : size + 1]
