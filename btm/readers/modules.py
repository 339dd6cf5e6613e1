"""The three kinds of modules that a reader is made of, to be derived from.

A module's settings are its keyword-only arguments with their defaults: reader.options gives them.
Its ports are class attributes, so that they are checked before one is made.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from btm.readers.ground import Ground
from btm.readers.ports import Batch, Port
from btm.readers.setting import Answer, Example, QASetting
from btm.system.json_files import Json

Measures = Mapping[str, NDArray[np.float64]]  # {metric: a value for each question}
Scored = Iterable[tuple[Sequence[Any], Batch]]  # items, and all ports of input and model for them


class InputModule(ABC):
    """Turns questions into arrays; what it learns of the training questions is its `state`."""

    gives: ClassVar[tuple[Port, ...]]
    targets: ClassVar[tuple[Port, ...]] = ()  # given beside them where the answers are known
    needs_ground: ClassVar[bool] = False

    def __init__(self, ground: Ground | None) -> None:
        self.ground = ground

    def learn(self, splits: Mapping[str, Sequence[Example]]) -> None:  # noqa: B027 - may be empty
        """Learn vocabularies from the questions: train, and what valid and test name."""

    def know(self, splits: Mapping[str, Sequence[Example]]) -> None:  # noqa: B027 - few need it
        """Take note of right answers that metrics leave out of the competition."""

    @abstractmethod
    def items(self, examples: Sequence[Example], *, answered: bool) -> Sequence[Any]:
        """Encode questions once, with their answers where they are `answered`, one item or more a
        question; all that is slow, such as reading by experts, happens here.

        Raises `UserError` for a question that cannot be read: it names the question.
        """

    @abstractmethod
    def batch(self, items: Sequence[Any]) -> Batch:
        """Put some items together: all ports of `gives`, and `targets` where they are answered."""

    def state(self) -> Json:
        """Return the learnt state, as JSON."""
        return {}

    def restore(self, state: Json) -> None:  # noqa: B027 - most have learnt nothing
        """Take back what `state` returned; `KeyError`, `TypeError` or `ValueError` if it is
        damaged.
        """


class ModelModule(nn.Module, ABC):
    """Computes scores from arrays; its parameters and buffers are what is saved."""

    takes: ClassVar[tuple[Port, ...]]
    gives: ClassVar[tuple[Port, ...]]
    targets: ClassVar[tuple[Port, ...]] = ()  # what its loss takes of the right answers

    def __init__(self, before: InputModule) -> None:
        """Make the module for what the input module `before` has learnt."""
        super().__init__()

    @abstractmethod
    def forward(self, batch: Batch) -> Batch:
        """Compute all ports of `gives`."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean loss of a batch whose answers are known."""


class OutputModule(ABC):
    """Turns scores into answers, and says how good they are.

    `scored` is what the modules before it gave, some items at a time, in the order of the
    questions; it is computed as it is asked for.
    """

    takes: ClassVar[tuple[Port, ...]]

    def __init__(self, before: InputModule) -> None:
        self.before = before

    @abstractmethod
    def answers(self, settings: Sequence[QASetting], scored: Scored) -> list[list[Answer]]:
        """Return the answers to each question, the best first."""

    @abstractmethod
    def measure(self, examples: Sequence[Example], scored: Scored) -> Measures:
        """Return the value of each metric for every question, larger is better."""
