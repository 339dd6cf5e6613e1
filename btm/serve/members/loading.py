"""The members that are loaded, each once, however many ensembles it is a member of."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from btm.forest import Model
from btm.serve.catalog import Served
from btm.serve.members.member import Found, LostError, Member, Piece

_PATIENCE = 5.0  # seconds until a model that did not load is tried again


class Members:
    """Members by the sha256 of their weights; a thread of its own loads them."""

    def __init__(self, load: Callable[[Model], Member]) -> None:
        """Begin with none."""
        self._load = load
        self._lock = threading.Lock()
        self._found: dict[str, Future[Member]] = {}
        self._again: dict[str, float] = {}  # when to try again what did not load
        self._loader = ThreadPoolExecutor(1, "btm-load")

    def __getitem__(self, sha256: str) -> Member:
        """Return a member that is loaded."""
        return self._found[sha256].result()

    def loaded(self) -> list[str]:
        """List the sha256 of the members that are loaded."""
        with self._lock:
            return [sha for sha, future in self._found.items() if _is_loaded(future)]

    def ready(self, models: Iterable[Model], told: Callable[[], None] = lambda: None) -> bool:
        """Whether all of these are loaded; those that are not begin to be.

        `told` is called when one more is. Raises what loading one raised; after a while it is tried
        again.
        """
        waiting = False
        for model in models:
            with self._lock:
                if time.monotonic() > self._again.get(model.sha256, math.inf):
                    self._again.pop(model.sha256)
                    self._found.pop(model.sha256, None)
                if model.sha256 not in self._found:
                    self._found[model.sha256] = self._loader.submit(self._load, model)
                    self._found[model.sha256].add_done_callback(lambda _: told())
                future = self._found[model.sha256]
            if not future.done():
                waiting = True
            elif error := future.exception():
                with self._lock:
                    self._again.setdefault(model.sha256, time.monotonic() + _PATIENCE)
                raise error
        return not waiting

    def wait(self, served: Served) -> None:
        """Load all members of a model; raises what loading one raised."""
        self.ready(served.members)
        for model in served.members:
            self._found[model.sha256].result()

    def read(
        self, asked: Mapping[str, tuple[int, Piece]]
    ) -> tuple[dict[str, Found], dict[str, LostError]]:
        """Let every member read the piece of a group, all at once; return what each found.

        Members that are lost are let go of, and returned beside, with the error of each.
        """
        found: dict[str, Found] = {}
        lost: dict[str, LostError] = {}
        pending = {}
        for sha, (group, piece) in asked.items():
            try:
                pending[sha] = self[sha].read(group, piece)
            except LostError as error:
                lost[sha] = error
        for sha, result in pending.items():
            try:
                found[sha] = result()
            except LostError as error:
                lost[sha] = error
        for sha in lost:
            self._forget(sha)
        return found, lost

    def keep(self, shas: Iterable[str]) -> None:
        """Let go of members that are not among these, and of those that did not load."""
        kept = set(shas)
        for sha, future in list(self._found.items()):
            if sha not in kept and future.done():
                self._forget(sha)

    def close(self) -> None:
        """Load no more, and let go of all."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for sha in self.loaded():
            self._forget(sha)

    def _forget(self, sha256: str) -> None:
        with self._lock:
            future = self._found.pop(sha256)
            self._again.pop(sha256, None)
        if _is_loaded(future):
            future.result().close()


def _is_loaded(future: Future[Member]) -> bool:
    return future.done() and not future.cancelled() and not future.exception()
