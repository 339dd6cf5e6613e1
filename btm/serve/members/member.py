"""The interface of a model that reads texts for the engine, wherever it runs.

A member reads its texts in groups. Those of one group are read together, a piece at a time: a
prompt begins in a group of its own, and joins the group `RUNNING` once it is read.

Shapes: T new tokens of a text, V tokens of the vocabulary. Log-probabilities in nats.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from btm.ensemble.posterior import Array
from btm.errors import UserError

if TYPE_CHECKING:
    import torch

RUNNING = 0  # the group of the texts that are being written

Tokens = Mapping[int, Sequence[int]]  # of each text, by its number


class LostError(UserError):
    """The member of these weights does not answer any more, nor does any copy of it."""

    def __init__(self, message: str, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


@dataclass(frozen=True)
class Piece:
    """New tokens of the texts of a group, and the results that are asked for.

    A text may have fewer new tokens than others only as long as it has had none before. One that
    has none, or is not among them, waits: nothing is found for it.
    """

    tokens: Tokens
    following: Tokens = field(default_factory=dict)  # the token after each new one; these are
    # scored. One shorter than the new ones where nothing is known to follow the last.
    whole: frozenset[int] = frozenset()  # scored texts of which the whole distributions are wanted
    last: bool = True  # whether the distribution after the last token is wanted
    weight: float = 0.0  # posterior weight of the member before these tokens, summed over texts


@dataclass(frozen=True)
class Rest:
    """The part of a distribution that is not known token by token: the tokens that are not listed.

    The distribution gives each of them the same share of `mass`; the true one gives all of them
    `mass`, and any of them exp(`most`) at most. So the two differ by at most `mass` in total
    variation.
    """

    mass: float
    most: float  # in nats
    listed: frozenset[int]


@dataclass(frozen=True)
class Found:
    """The log-probabilities that a member computed for a piece, by the number of the text."""

    next: "Mapping[int, torch.Tensor]" = field(default_factory=dict)  # after the last token, (V,)
    scores: Mapping[int, Array] = field(default_factory=dict)  # of the following tokens, (T,)
    whole: "Mapping[int, torch.Tensor]" = field(default_factory=dict)  # at each of them, (T, V)
    # Where a member knows only the likeliest tokens:
    rest: Mapping[int, Rest] = field(default_factory=dict)  # of `next`
    slack: Mapping[int, Array] = field(default_factory=dict)  # (T,) nats that the true score may be
    # above the one in `scores`, where it may also be anything below; 0: the score is exact
    exact: Mapping[int, float] = field(
        default_factory=dict
    )  # of the one token that was read, where
    # the distribution before did not list it: its log p after all


Pending = Callable[[], Found]  # waits for a piece to be read; raises `LostError`


class Member(ABC):
    """A model, and the texts that it has read so far."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The tokens V that it has a logit for; 0: not known."""

    @abstractmethod
    def begin(self, numbers: Sequence[int]) -> int:
        """Begin texts that it has read nothing of; return the number of their group."""

    @abstractmethod
    def read(self, group: int, piece: Piece) -> Pending:
        """Begin to read a piece of every text of a group; others may read theirs meanwhile."""

    @abstractmethod
    def join(self, group: int) -> None:
        """Put the texts of a group among those that are being written."""

    @abstractmethod
    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts, in whatever group; those that it does not have are passed over."""

    @abstractmethod
    def texts(self, group: int = RUNNING) -> list[int]:
        """List the numbers of the texts of a group, in any order."""

    @abstractmethod
    def clear(self) -> None:
        """Forget all texts."""

    def close(self) -> None:  # noqa: B027 - most hold nothing but memory
        """Let go of what it holds."""
