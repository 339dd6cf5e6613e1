"""Answers that are candidates: the likeliest first, and whether it is right."""

from collections.abc import Iterator, Sequence

import numpy as np

from btm.readers.choices.likelihood import SCORES
from btm.readers.modules import Measures, OutputModule, Scored
from btm.readers.setting import Answer, Example, QASetting


class Candidates(OutputModule):
    """Ranks the candidates of each question; scores are log probabilities."""

    takes = (SCORES,)

    def answers(self, settings: Sequence[QASetting], scored: Scored) -> list[list[Answer]]:
        """Return all candidates of each question, the likeliest first."""
        rows = self._rows(scored)
        found = []
        for setting in settings:
            pairs = zip(setting.candidates, next(rows), strict=False)
            answers = [Answer(text, score=float(score)) for text, score in pairs]
            found.append(sorted(answers, key=lambda answer: -answer.score))
        return found

    def measure(self, examples: Sequence[Example], scored: Scored) -> Measures:
        """Compute accuracy, and the log probability of the right candidate in nats."""
        right, logp = [], []
        for example, row in zip(examples, self._rows(scored), strict=True):
            own = row[: len(example.setting.candidates)]
            number = example.setting.candidates.index(example.answers[0].text)
            right.append(float(own.argmax() == number))
            logp.append(float(own[number]))
        return {"accuracy": np.array(right), "log p": np.array(logp)}

    @staticmethod
    def _rows(scored: Scored) -> Iterator[np.ndarray]:
        for _, batch in scored:
            yield from batch["scores"].numpy()
