"""A thread that keeps a claim while its holder trains: signs of life, and checkpoints.

A store that does not answer is asked again until it does; what counts is whether the claim still
holds then. So a volunteer may be cut off for less than the lease and never notice.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from btm.commons.checkpoints import Uploads
from btm.commons.claims import Holding, LostClaimError
from btm.errors import UserError
from btm.report import Beating, Reporter

_A_LEASE = 3  # signs of life in a lease, so that one or two may fail
_LEAST = 0.2  # seconds between two
_AGAIN = 2.0  # seconds until a store that did not answer is asked again


class Keeper:
    """Keeps a claim from a thread of its own; `lost` says why it no longer could."""

    def __init__(self, holding: Holding, every: float, say: Callable[[str], None]) -> None:
        """Beat for `holding`; upload a checkpoint every so many seconds; `say` what goes wrong."""
        self.holding, self.every, self.say = holding, every, say
        self.lost: LostClaimError | None = None
        self._uploads: Uploads | None = None
        self._branch: Callable[[], Path] | None = None
        self._uploading = threading.Lock()
        self._stop = threading.Event()
        self._silent = False  # the store did not answer last time
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)

    def watch(self, uploads: Uploads, branch: Callable[[], Path]) -> None:
        """Upload the checkpoints of the branch in the folder that `branch` returns, from now on."""
        self._uploads, self._branch = uploads, branch

    def end_uploads(self) -> None:
        """Upload the last checkpoint, unless the store does not answer, and no more after it."""
        with self._uploading:
            if self._uploads and self._branch:
                with suppress(UserError, OSError):
                    self._uploads.send(self._branch())
            self._uploads = None

    def require_held(self) -> None:
        """Raise `LostClaimError` if the claim is another's by now.

        A store that does not answer is asked until it does: the thread goes on meanwhile, so what
        was trained is not lost to whoever would take the claim over.
        """
        while True:
            try:
                return self.holding.require_held()
            except LostClaimError:
                raise
            except (UserError, OSError) as error:
                self._unheard(error)
            if self.lost is not None:
                raise self.lost
            time.sleep(_AGAIN)

    def start(self) -> None:
        """Begin, with a first sign of life; `LostClaimError` if the claim has ended."""
        self.holding.beat()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def pulse(self) -> bool:
        """Return whether training must stop, since the claim was lost."""
        return self.lost is not None

    def _work(self) -> None:
        pause = max(_LEAST, self.holding.member.charter.policy.lease / _A_LEASE)
        sign = checkpoint = time.monotonic()
        while not self._stop.wait(_LEAST):
            now = time.monotonic()
            try:
                if now - sign >= pause:
                    sign = now
                    self.holding.beat()
                    self._heard()
                if now - checkpoint >= self.every:
                    checkpoint = now
                    self._upload()
            except LostClaimError as error:
                self.lost = error
                return
            except (UserError, OSError) as error:
                self._unheard(error)

    def _upload(self) -> None:
        with self._uploading:
            if self._uploads and self._branch:
                self._uploads.send(self._branch())

    def _heard(self) -> None:
        if self._silent:
            self.say("the store was reached again, and the claim holds")
        self._silent = False

    def _unheard(self, error: Exception) -> None:
        if not self._silent:
            self.say(
                f"no sign of life or checkpoint went out ({error}); training goes on, and it is "
                "tried again"
            )
        self._silent = True


@contextmanager
def kept(holding: Holding, every: float, reporter: Reporter) -> Iterator[Keeper]:
    """Keep a claim while the block runs."""
    keeper = Keeper(holding, every, reporter.line)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop()


class Kept(Beating):
    """A reporter that stops a training once its claim is lost."""

    def __init__(self, other: Reporter, keeper: Keeper) -> None:
        super().__init__(other, lambda: None)
        self.keeper = keeper

    def pulse(self, step: int) -> bool:
        """Take note of a training step; return whether training must stop after it."""
        return super().pulse(step) or self.keeper.pulse()
