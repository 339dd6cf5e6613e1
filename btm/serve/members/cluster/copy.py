"""A replica as the gateway sees it: the actor, its machine, its texts, its speed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from btm.serve.members.cluster.wire import Reply
from btm.serve.members.member import Piece

if TYPE_CHECKING:
    from ray import ObjectRef

_NEW = 0.2  # the weight of a new measurement
_HOPED = 0.9  # the seconds of a new replica over those of the fastest: it is tried first


class GoneError(Exception):
    """A replica does not answer any more."""


class Copy:
    """One replica of a model. Calls to it are run in their order; none of them waits."""

    def __init__(
        self, actor: Any, machine: str, patience: float, doubt: Callable[[str], None]
    ) -> None:
        """Have an actor load its model; `doubt` is told its machine if it dies."""
        self.actor, self.machine = actor, machine
        self._doubt = doubt
        self.gone = False
        self.texts: set[int] = set()  # that it reads
        self.vocabulary: int | None = None  # None until the model is loaded
        self.seconds: float | None = None  # that a token of each of its texts takes, lately
        self._patience = patience
        self._loading: ObjectRef = actor.load.remote()
        self._pulse: ObjectRef | None = None

    @property
    def reads(self) -> bool:
        """Whether its model is loaded, and it has not gone."""
        return self.vocabulary is not None and not self.gone

    def free(self, seconds: float) -> float:
        """Compute the texts per second that one more text would have of it.

        `seconds` is what it takes for a token as long as nothing was measured.
        """
        return 1 / ((self.seconds or seconds) * (len(self.texts) + 1))

    def load(self, timeout: float | None = None) -> bool:
        """Wait until the model is loaded, `timeout` seconds at most; tell whether it is.

        Raises what loading raised, or `GoneError`.
        """
        if self.vocabulary is None:
            found = self._get(self._loading, timeout)
            self.vocabulary = found
        return self.vocabulary is not None

    def tell(self, call: str, *values: Any) -> None:
        """Call a method whose result nobody wants; a replica where it fails ends."""
        getattr(self.actor, call).remote(*values)

    def ask(self, group: int, piece: Piece) -> "ObjectRef":
        """Begin to read a piece of a group."""
        return self.actor.read.remote(group, piece)

    def answer(self, asked: "ObjectRef", piece: Piece) -> Reply:
        """Wait for a piece to be read; `GoneError` if it is not within its time."""
        reply = self._get(asked, self._patience)
        if reply is None:
            self._doubt(self.machine)
            raise GoneError(f"no answer within {self._patience:g} s")
        if all(len(new) == 1 for new in piece.tokens.values()):
            before = self.seconds or reply.seconds
            self.seconds = before + _NEW * (reply.seconds - before)
        return reply

    def beats(self) -> bool:
        """Whether it has not been found dead, without waiting."""
        try:
            if self.load(0) and (self._pulse is None or self._get(self._pulse, 0)):
                self._pulse = self.actor.lives.remote()
        except GoneError:
            return False
        return True

    def kill(self) -> None:
        """End its process."""
        import ray

        self.gone = True
        ray.kill(self.actor)

    def _get(self, asked: "ObjectRef", timeout: float | None) -> Any:
        """Return a result, or None where it is not there in time."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        try:
            return ray.get(asked, timeout=timeout)
        except GetTimeoutError:
            return None
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            if not self.gone:  # else it was ended here
                self._doubt(self.machine)
            raise GoneError(str(error).partition("\n")[0]) from None


def freest(copies: Sequence[Copy]) -> Copy:
    """Choose the replica with the most free throughput, the first of those with as much."""
    measured = [copy.seconds for copy in copies if copy.seconds]
    hoped = _HOPED * min(measured, default=1.0)
    return max(copies, key=lambda copy: copy.free(hoped))
