"""Supports in overlapping windows, read by the models that a reader stands on.

Shapes: B windows, K experts of each, T tokens of a support, S = T + 1 places: no answer, then the
tokens, H the width of hidden states, F = 3 features.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from btm.errors import UserError
from btm.readers import apart
from btm.readers.ground import Ground, Tokens
from btm.readers.modules import InputModule
from btm.readers.ports import BOOL, INT, Batch, Port
from btm.readers.setting import Example, QASetting

STATES, ASKED = Port("states", shape="BKTH"), Port("asked", shape="BKH")
EXPERTS, WEIGHTS = Port("experts", INT, "BK"), Port("weights", shape="BK")
FEATURES, FILLED = Port("features", shape="BT3"), Port("filled", BOOL, "BT")
FIRST, LAST = Port("first", INT, "B"), Port("last", INT, "B")  # places of the answer; 0: none
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Window:
    """A part of a support with the question before it, as it was read."""

    question: int  # its number among those that are asked
    document: int
    spans: NDArray[np.int64]  # (T, 2): characters of the tokens in the document
    features: NDArray[np.float32]  # (T, 3)
    answer: tuple[int, int]  # places of its first and last token, (0, 0): not here
    read: apart.Apart | None = None  # of question and support
    asked: int = 0  # tokens of the question


class Windows(InputModule):
    """Reads question and support as one text: "question\\nsupport".

    A window has at most `window` tokens of both, and `overlap` of the support in common with the
    one before. Of the `experts` likeliest under p(D | support) states are kept: 1 is argmax.
    """

    gives = (STATES, ASKED, EXPERTS, WEIGHTS, FEATURES, FILLED)
    targets = (FIRST, LAST)
    needs_ground = True
    ground: Ground

    def __init__(
        self, ground: Ground, *, window: int = 256, overlap: int = 64, experts: int = 2
    ) -> None:
        super().__init__(ground)
        apart.check_experts(experts)
        if not 0 <= overlap < window // 2:
            raise UserError(
                f"reader.options: overlap={overlap}, window={window}: wanted an overlap of less "
                "than half a window"
            )
        self.window, self.overlap, self.experts = window, overlap, experts

    def items(self, examples: Sequence[Example], *, answered: bool) -> Sequence[Window]:
        """Cut supports into windows, and read them all; a question has one or more."""
        windows, ids = [], []
        for number, example in enumerate(examples):
            for window, own in self._windows(
                number, example if answered else None, example.setting
            ):
                windows.append(window)
                ids.append(own)
        read = apart.read(self.ground, ids, [window.asked for window in windows], self.experts)
        return [
            Window(w.question, w.document, w.spans, w.features, w.answer, each, w.asked)
            for w, each in zip(windows, read, strict=True)
        ]

    def _windows(
        self, number: int, example: Example | None, setting: QASetting
    ) -> Iterator[tuple[Window, NDArray[np.int64]]]:
        if not any(text.strip() for text in setting.support):
            called = setting.id or "the question"
            raise UserError(
                f"{called}: no support to find an answer in: give reader.support=[TEXT]"
            )
        room = min(self.window, self.ground.context)
        asked = self.ground.tokens(setting.question).ids[: room // 2]
        asked = np.concatenate([asked, self.ground.tokens("\n").ids])
        step = room - len(asked)
        if step <= self.overlap:
            raise UserError(f"reader.options: window={self.window}: no room for the support")
        for document, text in enumerate(setting.support):
            tokens = self.ground.tokens(text)
            features = overlap_features(setting.question, text, tokens)
            for begin in range(0, max(1, len(tokens.ids) - self.overlap), step - self.overlap):
                part = slice(begin, begin + step)
                if not len(tokens.ids[part]):
                    continue
                answer = _places(example, document, tokens.spans[part]) if example else (0, 0)
                yield (
                    Window(
                        number, document, tokens.spans[part], features[part], answer,
                        asked=len(asked),
                    ),
                    np.concatenate([asked, tokens.ids[part]]),
                )  # fmt: skip

    def batch(self, items: Sequence[Window]) -> Batch:
        """Put windows together, padded to the longest."""
        reads = [item.read for item in items if item.read is not None]
        count = max(len(read.experts) for read in reads)
        tokens, width = max(len(item.spans) for item in items), reads[0].states.shape[-1]
        states = torch.zeros(len(items), count, tokens, width)
        asked = torch.zeros(len(items), count, width)
        features, filled = torch.zeros(len(items), tokens, 3), torch.zeros(len(items), tokens)
        for row, (item, read) in enumerate(zip(items, reads, strict=True)):
            own = torch.from_numpy(read.states).float()
            states[row, :, : len(item.spans)] = own[:, item.asked :]
            asked[row] = own[:, : item.asked].mean(1)
            features[row, : len(item.spans)] = torch.from_numpy(item.features)
            filled[row, : len(item.spans)] = 1
        return {
            "states": states,
            "asked": asked,
            "experts": torch.from_numpy(np.stack([read.experts for read in reads])),
            "weights": torch.from_numpy(np.stack([read.weights for read in reads])),
            "features": features,
            "filled": filled.bool(),
            "first": torch.tensor([item.answer[0] for item in items]),
            "last": torch.tensor([item.answer[1] for item in items]),
        }


def _places(example: Example, document: int, spans: NDArray[np.int64]) -> tuple[int, int]:
    """Find the places of the first right answer that stands whole among the tokens."""
    for answer in example.answers:
        if answer.span is None or answer.document != document:
            continue
        begin, end = stripped(example.setting.support[document], *answer.span)
        inside = np.flatnonzero((spans[:, 1] > begin) & (spans[:, 0] < end))
        if len(inside) and spans[inside[0], 0] <= begin and spans[inside[-1], 1] >= end:
            return int(inside[0]) + 1, int(inside[-1]) + 1
    return 0, 0


def stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    """Leave the blanks at its ends out of a span."""
    inner = text[begin:end]
    begin += len(inner) - len(inner.lstrip())
    return begin, begin + len(inner.strip())


def overlap_features(question: str, support: str, tokens: Tokens) -> NDArray[np.float32]:
    """Say of each token whether its word stands in the question, as FastQA does (arXiv 1703.04816):
    yes or no, the same weighed by how rare the word is in the support, and of the word before.
    """
    asked = {word.lower() for word in _WORD.findall(question)}
    words = [(found.start(), found.end(), found[0].lower()) for found in _WORD.finditer(support)]
    count = Counter(word for _, _, word in words)
    at = np.searchsorted([end for _, end, _ in words], tokens.spans[:, 0], side="right")
    features = np.zeros((len(tokens.ids), 3), np.float32)
    for row, number in enumerate(at):
        if number < len(words) and words[number][0] < tokens.spans[row, 1]:
            word = words[number][2]
            features[row, :2] = (word in asked), (word in asked) / count[word]
        if 0 < number <= len(words):
            features[row, 2] = words[number - 1][2] in asked
    return features
