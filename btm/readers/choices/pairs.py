"""Inference: premise and hypothesis as hidden states and as words, and a classifier on both.

Shapes: B pairs, K experts of each, H the width of hidden states, F features of words.
"""

import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from btm.errors import UserError
from btm.readers import apart
from btm.readers.choices.likelihood import RIGHT, SCORES
from btm.readers.choices.questions import LABELS
from btm.readers.ground import Ground
from btm.readers.heads import SHARED, Mixed
from btm.readers.modules import InputModule, ModelModule
from btm.readers.ports import INT, Batch, Port
from btm.readers.setting import Example, QASetting

POOLED = Port("pooled", shape="BK2H")  # mean states of premise and hypothesis
EXPERTS, WEIGHTS = Port("experts", INT, "BK"), Port("weights", shape="BK")
FEATURES = Port("features", shape="BF")
_WORD = re.compile(r"\w+")
_NOT = frozenset(["no", "not", "nobody", "nothing", "never", "none", "neither", "nor", "without"])
_OVERLAP = 10
_AT_ONCE = 1024  # pairs whose states are in memory


@dataclass(frozen=True)
class Pair:
    """Premise and hypothesis as they were read."""

    read: apart.Apart  # states: (K, 2, H), means
    features: NDArray[np.float32]
    right: int


class Pairs(InputModule):
    """Reads "premise hypothesis" as one text, by the `experts` likeliest under p(D | premise).

    `words` = N adds the words of the hypothesis, and those that the premise lacks, hashed into N
    places each (arXiv 0902.2206); `likelihood` how much likelier the premise makes the hypothesis.
    """

    gives = (POOLED, EXPERTS, WEIGHTS, FEATURES)
    targets = (RIGHT,)
    needs_ground = True
    ground: Ground

    def __init__(
        self, ground: Ground, *, experts: int = 2, words: int = 0, likelihood: bool = True
    ) -> None:
        super().__init__(ground)
        apart.check_experts(experts)
        if words < 0:
            raise UserError(f"reader.options: words={words}: wanted 0 or more")
        self.experts, self.words, self.likelihood = experts, words, likelihood

    @property
    def width(self) -> int:
        """Count the features of words."""
        return _OVERLAP + 2 * self.words + self.likelihood

    def items(self, examples: Sequence[Example], *, answered: bool) -> Sequence[Pair]:
        """Read all pairs, some at a time: only their means are kept."""
        found: list[Pair] = []
        for begin in range(0, len(examples), _AT_ONCE):
            found += self._read(examples[begin : begin + _AT_ONCE], answered)
        return found

    def _read(self, examples: Sequence[Example], answered: bool) -> list[Pair]:
        pairs = [self._ids(example.setting) for example in examples]
        texts = [np.concatenate(pair) for pair in pairs]
        # The posterior is of the premise alone, read by itself.
        weighed = apart.read(self.ground, [a for a, _ in pairs], [0] * len(pairs), self.experts)
        read = apart.read(self.ground, texts, [0] * len(pairs), len(self.ground.models))
        gains = np.zeros(len(pairs))
        if self.likelihood:
            alone = [(premise[:0], asked) for premise, asked in pairs]
            count = len(self.ground.models)
            gains = apart.likelihoods(self.ground, pairs, count)
            gains -= apart.likelihoods(self.ground, alone, count)
        found = []
        for example, pair, first, whole, gain in zip(
            examples, pairs, weighed, read, gains, strict=True
        ):
            order = {int(expert): row for row, expert in enumerate(whole.experts)}
            states = whole.states[[order[int(each)] for each in first.experts]]
            at = len(pair[0])
            pooled = np.stack([states[:, :at].mean(1), states[:, at:].mean(1)], 1)
            kept = apart.Apart(pooled, first.experts, first.weights)
            features = overlap(example.setting, self.words)
            if self.likelihood:
                features = np.append(features, np.float32(gain / len(pair[1])))
            right = LABELS.index(example.answers[0].text) if answered else 0
            found.append(Pair(kept, features, right))
        return found

    def _ids(self, setting: QASetting) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cut premise and hypothesis into tokens, each to half of the context at most."""
        called = setting.id or "the question"
        if not any(text.strip() for text in setting.support):
            raise UserError(f"{called}: no premise: give reader.support=[TEXT]")
        if not set(setting.candidates) <= set(LABELS):
            raise UserError(
                f"{called}: labels {', '.join(setting.candidates)}: wanted {', '.join(LABELS)}"
            )
        half = self.ground.context // 2
        premise = self.ground.tokens(" ".join(setting.support)).ids
        return premise[:half], self.ground.tokens(f" {setting.question}").ids[:half]

    def batch(self, items: Sequence[Pair]) -> Batch:
        """Put pairs together."""
        reads = [item.read for item in items]
        return {
            "pooled": torch.from_numpy(np.stack([read.states for read in reads])).float(),
            "experts": torch.from_numpy(np.stack([read.experts for read in reads])),
            "weights": torch.from_numpy(np.stack([read.weights for read in reads])),
            "features": torch.from_numpy(np.stack([item.features for item in items])),
            "right": torch.tensor([item.right for item in items]),
        }


def overlap(setting: QASetting, words: int = 0) -> NDArray[np.float32]:
    """Say how the words of hypothesis and premise overlap, (10 + 2 · `words`,)."""
    premise = [word.lower() for word in _WORD.findall(" ".join(setting.support))]
    asked = [word.lower() for word in _WORD.findall(setting.question)] or [""]
    known, begun = set(premise), {word[:4] for word in premise}
    new = [word for word in asked if word not in known]
    pairs = set(itertools.pairwise(premise))
    common = [pair in pairs for pair in itertools.pairwise(asked)]
    values = [
        1 - len(new) / len(asked),
        np.mean([word[:4] in begun for word in asked]),
        len(known & set(asked)) / len(known | set(asked)),
        np.mean(common) if common else 0,
        min(len(new), 8) / 8,
        np.log(len(asked) / max(1, len(premise))),
        asked[-1] in known,
        asked[-1][:4] in begun,
        bool(_NOT & set(asked)),
        bool(_NOT & known),
    ]
    features = np.zeros(_OVERLAP + 2 * words, np.float32)
    features[:_OVERLAP] = values
    for begin, some in ((_OVERLAP, asked), (_OVERLAP + words, new)) if words else ():
        for word in some:
            features[begin + zlib.crc32(word.encode()) % words] += 1 / len(asked) ** 0.5
    return features


class _Head(nn.Module):
    """Scores labels by an expert's states of premise p and hypothesis h: [p, h, |p - h|, p · h]."""

    def __init__(self, width: int, features: int, dim: int, dropout: float, states: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.states = states
        self.hidden = nn.Linear(4 * width * states + features, dim)
        self.labels = nn.Linear(dim + features, len(LABELS))

    def forward(self, pooled: Tensor, features: Tensor) -> Tensor:
        """Return log probabilities of the labels, (R, 3)."""
        p, h = self.norm(pooled).unbind(1)
        given = [p, h, (p - h).abs(), p * h] if self.states else []
        hidden = self.drop(torch.relu(self.hidden(self.drop(torch.cat([*given, features], -1)))))
        found: Tensor = self.labels(torch.cat([hidden, features], -1)).log_softmax(-1)
        return found


class Entailment(ModelModule):
    """Classifiers with one hidden layer of `dim`, mixed by the domain posterior of the premise.

    states=false leaves the features of words alone.
    """

    takes = (POOLED, EXPERTS, WEIGHTS, FEATURES)
    gives = (SCORES,)
    targets = (RIGHT,)

    def __init__(
        self,
        before: Pairs,
        *,
        dim: int = 64,
        dropout: float = 0.3,
        heads: str = SHARED,
        states: bool = True,
    ) -> None:
        super().__init__(before)
        width, experts = before.ground.width, len(before.ground.models)
        make = lambda: _Head(width, before.width, dim, dropout, states)  # noqa: E731
        self.mixed = Mixed(heads, experts, make)

    def forward(self, batch: Batch) -> Batch:
        """Compute log probabilities of the labels."""
        features = batch["features"][:, None].expand(-1, batch["experts"].shape[1], -1)
        scores = self.mixed(batch["experts"], batch["weights"], batch["pooled"], features)
        return {"scores": scores}

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean negative log likelihood of the right labels."""
        return F.nll_loss(self(batch)["scores"], batch["right"])
