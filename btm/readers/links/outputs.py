"""Answers of links: the likeliest entities, and the ranks of the right ones."""

from collections.abc import Sequence

import numpy as np
import torch

from btm.errors import UserError
from btm.readers.links import ranks, triples
from btm.readers.links.inputs import Links
from btm.readers.modules import Measures, OutputModule, Scored
from btm.readers.ports import Port
from btm.readers.setting import Answer, Example, QASetting


class Ranking(OutputModule):
    """Ranks all entities; gives the `most` likeliest, or the score of the one that is named."""

    takes = (Port("scores", shape="BN"),)
    before: Links

    def __init__(self, before: Links, *, most: int = 10) -> None:
        super().__init__(before)
        if most < 1:
            raise UserError(f"reader.options: most={most}: wanted 1 or more")
        self.most = most
        self.names = list(before.entities)

    def answers(self, settings: Sequence[QASetting], scored: Scored) -> list[list[Answer]]:
        """Return the likeliest entities, their scores as probabilities."""
        found: list[list[Answer]] = []
        for _, batch in scored:
            for scores_N in torch.sigmoid(batch["scores"]):
                setting = settings[len(found)]
                subject, _, object_ = triples.parse(setting)
                if triples.ASKED not in (subject, object_):
                    number = self.before.entity(object_, setting)
                    found.append([Answer(object_, score=float(scores_N[number]))])
                    continue
                top = torch.topk(scores_N, min(self.most, len(self.names)))
                pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
                found.append([Answer(self.names[n], score=score) for score, n in pairs])
        return found

    def measure(self, examples: Sequence[Example], scored: Scored) -> Measures:
        """Compute the filtered reciprocal rank and hits of each right answer."""
        found: list[float] = []
        for items, batch in scored:
            scores_BN = batch["scores"].numpy()
            if not np.isfinite(scores_BN).all():
                raise UserError(
                    "the reader's scores are not finite: train it again, lower reader.lr"
                )
            some = examples[len(found) : len(found) + len(items)]
            right = [self.before.entities[example.answers[0].text] for example in some]
            known = [self.before.known(link) for link in items]
            found += ranks.realistic(scores_BN, right, known).tolist()
        return ranks.metrics(np.array(found))
