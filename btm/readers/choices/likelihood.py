"""Choices by likelihood: how likely is each candidate after the question, and without it?

Shapes: B questions, C candidates (padded).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from btm.errors import UserError
from btm.readers import apart
from btm.readers.choices.questions import LABELS
from btm.readers.ground import Ground
from btm.readers.modules import InputModule, ModelModule
from btm.readers.ports import BOOL, INT, Batch, Port
from btm.readers.setting import Example, QASetting

ASKED, ALONE = Port("asked", shape="BC"), Port("alone", shape="BC")  # log p with question, without
LENGTH, OFFERED = Port("length", shape="BC"), Port("offered", BOOL, "BC")
RIGHT = Port("right", INT, "B")  # number of the right candidate
SCORES = Port("scores", shape="BC")
_SAID = dict(zip(LABELS, ("True", "Neither", "False"), strict=True))


@dataclass(frozen=True)
class Offer:
    """The log likelihoods of the candidates of a question, (C,) each, and which is right."""

    asked: NDArray[np.float64]
    alone: NDArray[np.float64]
    length: NDArray[np.float64]  # tokens
    right: int


class Likelihoods(InputModule):
    """Computes log p(candidate | support, question) and log p(candidate), by one model or the
    ensemble of the `experts` likeliest under p(D | support, question).
    """

    gives = (ASKED, ALONE, LENGTH, OFFERED)
    targets = (RIGHT,)
    needs_ground = True
    ground: Ground

    def __init__(self, ground: Ground, *, experts: int = 100) -> None:
        super().__init__(ground)
        apart.check_experts(experts)
        self.experts = experts

    def prompt(self, setting: QASetting) -> str:
        """Write what stands before a candidate."""
        return " ".join([*setting.support, setting.question])

    def said(self, candidate: str) -> str:
        """Write a candidate as it would go on after the question."""
        return candidate

    def items(self, examples: Sequence[Example], *, answered: bool) -> Sequence[Offer]:
        """Compute the likelihoods of all candidates of all questions."""
        asked, alone, sizes = [], [], []
        for example in examples:
            setting = example.setting
            if len(setting.candidates) < 2:
                raise UserError(
                    f"{setting.id or 'the question'}: {len(setting.candidates)} candidates to "
                    "choose from: wanted two or more (reader.candidates=[…, …])"
                )
            sizes.append(len(setting.candidates))
            prompt = self.ground.tokens(self.prompt(setting)).ids
            for candidate in setting.candidates:
                ids = self.ground.tokens(f" {self.said(candidate)}").ids
                if len(ids) >= self.ground.context:
                    raise UserError(
                        f"{setting.id or 'the question'}: a candidate of {len(ids):,} tokens: the "
                        f"models read {self.ground.context:,} at most"
                    )
                asked.append((prompt, ids))
                alone.append((prompt[:0], ids))
        ends = np.cumsum(sizes)[:-1]
        split = (
            np.split(values, ends)
            for values in (
                apart.likelihoods(self.ground, asked, self.experts),
                apart.likelihoods(self.ground, alone, len(self.ground.models)),
                np.array([len(ids) for _, ids in alone], np.float64),
            )
        )
        return [
            Offer(with_question, without, length, _right(example) if answered else 0)
            for with_question, without, length, example in zip(*split, examples, strict=True)
        ]

    def batch(self, items: Sequence[Offer]) -> Batch:
        """Put questions together, padded to the most candidates."""
        most = max(len(item.asked) for item in items)
        padded = {name: torch.zeros(len(items), most) for name in ("asked", "alone")}
        padded["length"] = torch.ones(len(items), most)
        offered = torch.zeros(len(items), most, dtype=torch.bool)
        for row, item in enumerate(items):
            offered[row, : len(item.asked)] = True
            for name, tensor in padded.items():
                own = getattr(item, name)
                tensor[row, : len(own)] = torch.from_numpy(own)
        right = torch.tensor([item.right for item in items])
        return {**padded, "offered": offered, "right": right}


def _right(example: Example) -> int:
    return example.setting.candidates.index(example.answers[0].text)


class Verdicts(Likelihoods):
    """Inference without training, as GPT-3 was asked (arXiv 2005.14165, appendix G): is the
    hypothesis true, false or neither?
    """

    def prompt(self, setting: QASetting) -> str:
        """Write premise and hypothesis as a question."""
        premise = " ".join(setting.support)
        return f"{premise} Question: {setting.question} True, False, or Neither? Answer:"

    def said(self, candidate: str) -> str:
        """Say a label in a word."""
        return _SAID.get(candidate, candidate)


class Likelihood(ModelModule):
    """score = (log p(a | question) - `calibration` · log p(a)) / tokens^`length`.

    calibration=1 is the pointwise mutual information of question and answer (Holtzman et al.,
    arXiv 2104.08315); length=0 leaves the sum. What is learnt is one temperature, which makes
    probabilities of scores and changes no answer.
    """

    takes = (ASKED, ALONE, LENGTH, OFFERED)
    gives = (SCORES,)
    targets = (RIGHT,)

    def __init__(
        self, before: Likelihoods, *, calibration: float = 1.0, length: float = 1.0
    ) -> None:
        super().__init__(before)
        self.calibration, self.length = calibration, length
        self.temperature = nn.Parameter(torch.zeros(()))  # its logarithm

    def forward(self, batch: Batch) -> Batch:
        """Compute log probabilities of the candidates."""
        gain = batch["asked"] - self.calibration * batch["alone"]
        scores = gain / batch["length"] ** self.length / self.temperature.exp()
        return {"scores": scores.masked_fill(~batch["offered"], -1e9).log_softmax(-1)}

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean negative log likelihood of the right candidates."""
        return F.nll_loss(self(batch)["scores"], batch["right"])
