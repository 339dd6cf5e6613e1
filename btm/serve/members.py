"""The loaded models, each once, however many ensembles it is a member of."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from btm.forest import Model
from btm.serve.catalog import Served

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from btm.serve.kv_cache import Alone, Batch

    AnyBatch = Batch | Alone


_PATIENCE = 5.0  # seconds until a model that did not load is tried again


@dataclass
class Member:
    """A loaded model, and the texts that are being written with it."""

    model: "PreTrainedModel"
    batched: bool  # whether it reads texts of several lengths together
    running: "AnyBatch"

    def begin(self, numbers: list[int]) -> "AnyBatch":
        """Begin texts that it has read nothing of."""
        from btm.serve.kv_cache import Alone, Batch

        return Batch(self.model, numbers) if self.batched else Alone(self.model, numbers)


class Members:
    """Models by the sha256 of their weights; a thread of its own loads them."""

    def __init__(self, load: Callable[[Model], "PreTrainedModel"]) -> None:
        """Begin with none."""
        self._load = load
        self._lock = threading.Lock()
        self._found: dict[str, Future[Member]] = {}
        self._again: dict[str, float] = {}  # when to try again what did not load
        self._loader = ThreadPoolExecutor(1, "btm-load")

    def __getitem__(self, sha256: str) -> Member:
        """Return a model that is loaded."""
        return self._found[sha256].result()

    def loaded(self) -> list[str]:
        """List the sha256 of the models that are loaded."""
        with self._lock:
            return [
                sha
                for sha, future in self._found.items()
                if future.done() and not future.exception()
            ]

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
                    self._found[model.sha256] = self._loader.submit(self._open, model)
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

    def keep(self, shas: Iterable[str]) -> None:
        """Let go of models that are not among these, and of those that did not load."""
        kept = set(shas)
        with self._lock:
            for sha, future in list(self._found.items()):
                if sha not in kept and future.done():
                    del self._found[sha]
                    self._again.pop(sha, None)

    def close(self) -> None:
        """Load no more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _open(self, model: Model) -> Member:
        from btm.serve.kv_cache import Alone, Batch, can_batch

        loaded = self._load(model)
        batched = can_batch(loaded)
        return Member(loaded, batched, Batch(loaded) if batched else Alone(loaded))
