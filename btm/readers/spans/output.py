"""Answers that are spans: the likeliest over all windows of a question, or none."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from btm.errors import UserError
from btm.readers.modules import InputModule, Measures, OutputModule, Scored
from btm.readers.ports import Batch
from btm.readers.setting import Answer, Example, QASetting
from btm.readers.spans import squad
from btm.readers.spans.model import BEGIN, END
from btm.readers.spans.windows import Window, stripped


class Found(NamedTuple):
    """A span with its score: log p(span) - log p(no answer) in its window."""

    score: float
    document: int
    begin: int
    end: int


class Spans(OutputModule):
    """Gives the `most` best spans of at most `longest` tokens, and no answer with the score
    `threshold`: it comes first where every span is less likely than that.
    """

    takes = (BEGIN, END)

    def __init__(
        self, before: InputModule, *, most: int = 5, longest: int = 40, threshold: float = 0.0
    ) -> None:
        super().__init__(before)
        if most < 1 or longest < 1:
            raise UserError(f"reader.options: most={most}, longest={longest}: wanted 1 or more")
        self.most, self.longest, self.threshold = most, longest, threshold

    def answers(self, settings: Sequence[QASetting], scored: Scored) -> list[list[Answer]]:
        """Return the best spans of each question, and "" as the answer that there is none."""
        found: list[list[Found]] = [[] for _ in settings]
        for items, batch in scored:
            for row, window in enumerate(items):
                found[window.question] += self._best(window, batch, row)
        return [self._of(own, setting) for own, setting in zip(found, settings, strict=True)]

    def _best(self, window: Window, batch: Batch, row: int) -> list[Found]:
        """List the best spans of a window."""
        count = len(window.spans)
        begin_S, end_S = batch["begin"][row, : count + 1], batch["end"][row, : count + 1]
        none = float(begin_S[0] + end_S[0])
        scores = begin_S[1:, None] + end_S[None, 1:]
        scores = scores.masked_fill(~_allowed(count, self.longest), -np.inf)
        top = torch.topk(scores.flatten(), min(self.most, count))
        places = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        return [
            Found(
                score - none,
                window.document,
                int(window.spans[at // count, 0]),
                int(window.spans[at % count, 1]),
            )
            for score, at in places
        ]

    def _of(self, found: Sequence[Found], setting: QASetting) -> list[Answer]:
        answers: dict[tuple[int, int, int], Answer] = {}
        for score, document, begin, end in sorted(found, reverse=True):
            support = setting.support[document]
            begin, end = stripped(support, begin, end)  # some tokens begin with a blank
            answer = Answer(support[begin:end], (begin, end), document, score)
            answers.setdefault((document, begin, end), answer)
        none = Answer("", score=self.threshold)
        best = [*list(answers.values())[: self.most], none]
        return sorted(best, key=lambda answer: -answer.score)

    def measure(self, examples: Sequence[Example], scored: Scored) -> Measures:
        """Compute exact match and F1 of the first answer to each question."""
        answers = self.answers([example.setting for example in examples], scored)
        pairs = [
            squad.scores(own[0].text, example)
            for own, example in zip(answers, examples, strict=True)
        ]
        exact, f1 = np.array(pairs, np.float64).T
        return {"exact": exact, "f1": f1}


def _allowed(count: int, longest: int) -> torch.Tensor:
    """Mark spans that end where they begin or after, within `longest` tokens, (T, T)."""
    at = torch.arange(count)
    length = at[None] - at[:, None]
    return (length >= 0) & (length < longest)
