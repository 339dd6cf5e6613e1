"""The actor of a replica: a model in a process of its own, on any machine of the cluster."""

import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btm import __version__
from btm.config.load import LoadConfig
from btm.errors import UserError
from btm.serve.members.cluster import wire
from btm.serve.members.member import RUNNING, Piece


@dataclass(frozen=True)
class Order:
    """A model that is to be loaded, as every machine can find it."""

    forest: Path  # on a file system that all machines share
    name: str
    sha256: str  # of the weights
    device: str  # trainer.device
    load: LoadConfig
    wire: str  # the number type of answers
    version: str = __version__  # of btm


def _whole_or_ended(call: Callable[..., None]) -> Callable[..., None]:
    """End this process where a call fails that nobody waits for: which texts it has is then
    unsure, and the gateway has another replica read them again.
    """

    @functools.wraps(call)
    def called(self: "Replica", *values: Any) -> None:
        try:
            call(self, *values)
        except Exception:
            logging.getLogger("btm.serve").exception("%s failed: the replica ends", call.__name__)
            os._exit(1)

    return called


class Replica:
    """A model that reads texts for a gateway. Its calls are run one after another, in order."""

    def __init__(self, order: Order) -> None:
        """Load nothing yet: an error of a constructor would not reach the gateway as it is."""
        self._order = order
        self._groups = {RUNNING: RUNNING}  # the member's own number of each group

    def load(self) -> int:
        """Load the model; return the tokens of its vocabulary.

        Raises `UserError` where the forest does not stand here, or holds other weights.
        """
        from btm.ensemble.members import load_member
        from btm.forest import Forest, find_model
        from btm.models import causal_lm
        from btm.serve.members.local import LocalMember

        order = self._order
        if order.version != __version__:
            raise UserError(f"btm is {__version__} on this machine, {order.version} at the gateway")
        forest = Forest(order.forest)
        model = find_model(forest, order.name)
        loaded = load_member(forest, model, causal_lm.pick_device(order.device), order.load)
        if find_model(forest, order.name).sha256 != order.sha256:
            raise UserError(
                f"{order.name}: the weights in {order.forest} on this machine are not those of the "
                "gateway: machines must share the forest's folder, or it was replaced: ask again"
            )
        self._member = LocalMember(loaded)
        return self._member.vocabulary

    def lives(self) -> bool:
        """Answer."""
        return True

    @_whole_or_ended
    def begin(self, group: int, numbers: Sequence[int]) -> None:
        """Begin texts as the group of this number."""
        self._groups[group] = self._member.begin(numbers)

    def read(self, group: int, piece: Piece) -> wire.Reply:
        """Read a piece of every text of a group."""
        begin = time.perf_counter()
        found = self._member.compute(self._groups[group], piece)
        return wire.reply(found, self._order.wire, time.perf_counter() - begin)

    @_whole_or_ended
    def join(self, group: int) -> None:
        """Put the texts of a group among those that are being written."""
        if group in self._groups:  # else all of it was dropped
            self._member.join(self._groups.pop(group))

    @_whole_or_ended
    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts."""
        self._member.drop(numbers)
        for group, own in list(self._groups.items()):
            if group != RUNNING and not self._member.texts(own):
                del self._groups[group]

    @_whole_or_ended
    def clear(self) -> None:
        """Forget all texts."""
        self._member.clear()
        self._groups = {RUNNING: RUNNING}
