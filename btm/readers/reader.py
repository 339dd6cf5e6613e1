"""A reader: three modules that turn questions into answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from btm.errors import UserError
from btm.readers.ground import Ground
from btm.readers.modules import InputModule, ModelModule, OutputModule
from btm.readers.ports import Batch, check_batch
from btm.readers.registry import Parts, Spec
from btm.readers.setting import Answer, Example, QASetting
from btm.system.json_files import Json

_ROWS = 128  # items that are scored at once


class Reader:
    """The modules of a reader, made for what its input module has learnt.

    Call it with questions; it gives the answers to each, the best first.
    """

    def __init__(self, spec: Spec, given: InputModule, model: ModelModule, output: OutputModule):
        self.spec = spec
        self.input = given
        self.model = model
        self.output = output

    @classmethod
    def new(
        cls,
        spec: Spec,
        parts: Parts,
        ground: Ground | None,
        splits: Mapping[str, Sequence[Example]],
        seed: int = 0,
    ) -> "Reader":
        """Make a reader that has learnt the vocabularies of `splits`, its parameters a function of
        `seed`; `UserError` if it needs to stand on a model and does not.
        """
        given = _input(spec, parts, ground)
        given.learn(splits)
        return cls._made(spec, parts, given, seed)

    @classmethod
    def restored(cls, spec: Spec, parts: Parts, ground: Ground | None, state: Json) -> "Reader":
        """Make a reader whose input module has learnt `state`; its parameters are still to come."""
        given = _input(spec, parts, ground)
        given.restore(state)
        return cls._made(spec, parts, given, 0)

    @classmethod
    def _made(cls, spec: Spec, parts: Parts, given: InputModule, seed: int) -> "Reader":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = parts.model(given, **parts.options["model"])
        output = parts.output(given, **parts.options["output"])
        return cls(spec, given, model.eval(), output)

    def __call__(self, settings: Sequence[QASetting]) -> list[list[Answer]]:
        """Answer questions; `UserError` for one that cannot be read."""
        return self.output.answers(settings, self.scored([Example(s) for s in settings]))

    def measure(self, examples: Sequence[Example]) -> dict[str, NDArray[np.float64]]:
        """Compute each metric of every question whose answers are known."""
        if not examples:
            raise UserError("there are no questions to measure a reader on")
        return dict(self.output.measure(examples, self.scored(examples)))

    def scored(self, examples: Sequence[Example]) -> Iterator[tuple[Sequence[Any], Batch]]:
        """Yield items of the questions, and what input and model give for them."""
        items = self.input.items(examples, answered=False)
        for begin in range(0, len(items), _ROWS):
            some = items[begin : begin + _ROWS]
            yield some, self.score(some)

    def score(self, items: Sequence[Any]) -> Batch:
        """Compute all ports of input and model for some items."""
        batch = self.input.batch(items)
        check_batch(f"reader.input={self.spec.input}", self.input.gives, batch)
        with torch.inference_mode():
            made = self.model(batch)
        check_batch(f"reader.model={self.spec.model}", self.model.gives, made)
        return {**batch, **made}


def _input(spec: Spec, parts: Parts, ground: Ground | None) -> InputModule:
    if parts.input.needs_ground and ground is None:
        raise UserError(
            f"reader.input={spec.input} reads text by a model: give on=expert expert=NAME, "
            "on=average average=NAME or on=forest"
        )
    made: InputModule = parts.input(ground, **parts.options["input"])
    return made
