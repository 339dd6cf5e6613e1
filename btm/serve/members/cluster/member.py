"""A member that several replicas read for, each some of its texts.

The gateway remembers the tokens that each text has had. When a replica dies, another reads the
history of its texts again, and goes on with the piece that was asked for.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from btm.serve.members.cluster import wire
from btm.serve.members.cluster.copy import Copy, GoneError, freest
from btm.serve.members.member import RUNNING, Found, LostError, Member, Pending, Piece

if TYPE_CHECKING:
    from ray import ObjectRef

_REPLAYED = 512  # tokens of a history that are read at once, over all its texts
_log = logging.getLogger("btm.serve")


@dataclass(eq=False)
class _Part:
    """The texts of a group that one replica reads, and its own number of them."""

    copy: Copy
    group: int
    numbers: list[int] = field(default_factory=list)


class ReplicatedMember(Member):
    """A model that replicas read with. The engine's thread alone uses its texts."""

    def __init__(self, name: str, sha256: str, close: Callable[[], None]) -> None:
        """Begin without a replica; `close` is called when nothing will be read any more."""
        self.name, self.sha256 = name, sha256
        self.demand = 0.0  # posterior weight of what was read, lately
        self._copies: tuple[Copy, ...] = ()
        self._lock = threading.Lock()
        self._close = close
        self._count = RUNNING
        self._parts: dict[int, list[_Part]] = {}
        self._history: dict[int, list[int]] = {}

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The replicas that have not gone, loaded or not."""
        return tuple(copy for copy in self._copies if not copy.gone)

    def add(self, copy: Copy) -> None:
        """Add a replica, which is used once its model is loaded."""
        with self._lock:
            self._copies = (*self.copies, copy)

    def bury(self, copy: Copy, why: str) -> None:
        """Go on without a replica."""
        with self._lock:
            if copy.gone:
                return
            copy.kill()
        _log.warning("a replica of %s is gone: %s", self.name, why)

    @property
    def vocabulary(self) -> int:
        """The tokens that it has a logit for."""
        return max((copy.vocabulary or 0 for copy in self._copies), default=0)

    def begin(self, numbers: Sequence[int]) -> int:
        """Begin texts that it has read nothing of, each where most throughput is free."""
        self._count += 1
        parts: dict[Copy, _Part] = {}
        for number in numbers:
            copy = self._choose() or self._copies[0]  # a dead one, which is noticed in reading
            part = parts.setdefault(copy, _Part(copy, self._count))
            part.numbers.append(number)
            copy.texts.add(number)
            self._history[number] = []
        for copy, part in parts.items():
            copy.tell("begin", part.group, part.numbers)
        self._parts[self._count] = list(parts.values())
        return self._count

    def read(self, group: int, piece: Piece) -> Pending:
        """Have every replica read a piece of its texts of a group."""
        self.demand += piece.weight
        asked = []
        for part in self._parts.get(group, []):
            own = _restricted(piece, part.numbers)
            if any(own.tokens.values()):  # else all of its texts begin in a later piece
                asked.append((part, own, part.copy.ask(part.group, own)))

        def collect() -> Found:
            replies = [self._answer(*each) for each in asked]
            for part, _, _ in asked:
                if group == RUNNING and part.group != RUNNING:  # it has moved
                    self._parts[RUNNING].remove(part)
                    self._write_on(part)
            return _together([wire.found(reply) for reply in replies])

        return collect

    def join(self, group: int) -> None:
        """Put the texts of a group among those that are being written."""
        for part in self._parts.pop(group, []):
            self._write_on(part)

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts, in whatever group; those that it does not have are passed over."""
        gone = set(numbers)
        for group, parts in list(self._parts.items()):
            for part in parts:
                if mine := [number for number in part.numbers if number in gone]:
                    part.numbers = [number for number in part.numbers if number not in gone]
                    part.copy.texts.difference_update(mine)
                    part.copy.tell("drop", mine)
            self._parts[group] = [part for part in parts if part.numbers]
            if not self._parts[group]:
                del self._parts[group]
        for number in gone:
            self._history.pop(number, None)

    def texts(self, group: int = RUNNING) -> list[int]:
        """List the numbers of the texts of a group."""
        return [number for part in self._parts.get(group, []) for number in part.numbers]

    def clear(self) -> None:
        """Forget all texts."""
        self._parts, self._history = {}, {}
        for copy in self.copies:
            copy.texts.clear()
            if copy.reads:
                copy.tell("clear")

    def close(self) -> None:
        """End all replicas."""
        self._close()

    def _choose(self) -> Copy | None:
        able = [copy for copy in self._copies if copy.reads]
        return freest(able) if able else None

    def _answer(self, part: _Part, piece: Piece, asked: "ObjectRef") -> wire.Reply:
        """Wait for a part's piece; as long as its replica dies, another is asked."""
        has_moved = False
        while True:
            try:
                if has_moved:
                    asked = self._ask_again(part, piece)
                reply = part.copy.answer(asked, piece)
                break
            except GoneError as error:
                self.bury(part.copy, str(error))
                self._move(part)
                has_moved = True
        for number, new in piece.tokens.items():
            self._history[number] += new
        return reply

    def _move(self, part: _Part) -> None:
        """Give the texts of a part to another replica; `LostError` if there is none."""
        if (copy := self._choose()) is None:
            raise LostError(f"no replica of {self.name} is left", self.sha256)
        self._count += 1
        part.copy, part.group = copy, self._count
        copy.texts.update(part.numbers)

    def _ask_again(self, part: _Part, piece: Piece) -> "ObjectRef":
        """Have a replica read the history of its new texts, and begin to read their piece."""
        copy = part.copy
        copy.tell("begin", part.group, part.numbers)
        for known in _pieces({number: self._history[number] for number in part.numbers}):
            copy.answer(copy.ask(part.group, known), known)
        return copy.ask(part.group, piece)

    def _write_on(self, part: _Part) -> None:
        """Put the texts of a part among those that its replica writes."""
        part.copy.tell("join", part.group)
        part.group = RUNNING
        running = self._parts.setdefault(RUNNING, [])
        for other in running:
            if other.copy is part.copy:
                other.numbers += part.numbers
                return
        running.append(part)


def _restricted(piece: Piece, numbers: Sequence[int]) -> Piece:
    """Restrict a piece to some of its texts."""
    own = set(numbers)
    return Piece(
        {number: list(new) for number, new in piece.tokens.items() if number in own},
        {number: list(new) for number, new in piece.following.items() if number in own},
        piece.whole & own,
        piece.last,
    )


def _pieces(history: Mapping[int, Sequence[int]]) -> list[Piece]:
    """Cut texts into pieces that end at the same column, as prompts are read."""
    width = max(map(len, history.values()))
    step = max(1, _REPLAYED // len(history))
    found = []
    for begin in range(0, width, step):
        new = {}
        for number, tokens in history.items():
            first = width - len(tokens)  # the column of its first token
            at = slice(max(0, begin - first), max(0, begin + step - first))
            new[number] = list(tokens[at])
        found.append(Piece(new, last=False))
    return found


def _together(found: Sequence[Found]) -> Found:
    """Put together what the parts of a group were asked for."""
    return Found(
        {number: logp_V for each in found for number, logp_V in each.next.items()},
        {number: logp_T for each in found for number, logp_T in each.scores.items()},
        {number: logp_TV for each in found for number, logp_TV in each.whole.items()},
    )
