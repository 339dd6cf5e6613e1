"""Examples to token ids, and which of them are predicted.

The text of an example is encoded as a whole where that leaves a border between tokens wherever an
answer begins; else what stands after the border is encoded by itself, as a model that goes on from
a prompt has it. In chats the special tokens that the template writes are special; elsewhere what
spells one is ordinary text, as everywhere in btm.

An example begins with the BOS, where texts do, and ends with the EOS, which is predicted with a
completion. In a chat the last special token of an answer (the end of a turn) is the last that is
predicted, and the EOS is added only where the template has not written it. The first token of an
example is never predicted: nothing stands before it.
"""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from btm.data.encode import Encoder, backend
from btm.data.prompted.examples import Example
from btm.data.slices import utf8_size


class Encoded(NamedTuple):
    """The tokens of an example (T,), which are predicted (T,), and the bytes of text of those."""

    ids: np.ndarray
    mask: np.ndarray
    n_bytes: int


@dataclass(frozen=True)
class Cut:
    """The longest example, in tokens, and the end at which a longer one loses some."""

    max_tokens: int
    end: str  # left or right
    everywhere: bool = False  # prompts are predicted too

    def __call__(self, found: Encoded) -> Encoded | None:
        """Cut an example; None where it has no answer left, or none with a prompt before it."""
        over = len(found.ids) - self.max_tokens
        if over <= 0:
            return found
        kept = slice(over, None) if self.end == "left" else slice(0, self.max_tokens)
        ids, mask = found.ids[kept], found.mask[kept].copy()
        if not self.everywhere:  # what is left of an answer that has lost its prompt teaches wrong
            mask[: int((mask == 0).argmax()) if (mask == 0).any() else len(mask)] = 0
        mask[0] = 0
        if not mask.any():
            return None
        share = int(mask.sum()) / int(found.mask.sum())
        return Encoded(ids, mask, round(found.n_bytes * share))


class ExampleEncoder:
    """Encodes examples with the tokenizer of a suite; `everywhere`: prompts are predicted too."""

    def __init__(self, encoder: Encoder, *, everywhere: bool) -> None:
        """Take the tokenizer of `encoder`, and how it begins and ends texts."""
        self.eos, self.bos, self.dtype = encoder.eos, encoder.bos, encoder.dtype
        self.everywhere = everywhere
        content = json.loads(encoder.spec)
        added = content.get("added_tokens") or []
        self._specials = {token["id"] for token in added if token["special"]} | {self.eos}
        self._plain = backend(json.loads(encoder.spec), self.eos)
        self._chat = backend(content, self.eos)
        self._chat.encode_special_tokens = False

    def encode(self, example: Example) -> Encoded:
        """Encode one example."""
        ids, mask = self._segments(example)
        if self.bos is not None and ids[:1] != [self.bos]:
            ids, mask = [self.bos, *ids], [False, *mask]
        if ids[-1] != self.eos or not example.is_chat:
            open_ended = not example.is_chat or not any(
                token in self._specials for token, flag in zip(ids, mask, strict=True) if flag
            )
            ids, mask = [*ids, self.eos], [*mask, open_ended]
        made = np.array(mask, np.uint8)
        if self.everywhere:
            made[:] = 1
        made[0] = 0
        size = utf8_size(example.text) if self.everywhere else example.answer_bytes()
        return Encoded(np.array(ids, self.dtype), made, size)

    def _segments(self, example: Example) -> tuple[list[int], list[bool]]:
        """Encode segment by segment; a border between tokens stands wherever one begins."""
        tokenizer = self._chat if example.is_chat else self._plain
        text = ""
        ids: list[int] = []
        mask: list[bool] = []
        for part, is_answer in example.segments:
            text += part
            whole = _ids(tokenizer, text)
            clean = whole[: len(ids)] == ids
            new = whole[len(ids) :] if clean else _ids(tokenizer, part)
            flags = [is_answer] * len(new)
            if is_answer and example.is_chat:
                ends = [i for i, token in enumerate(new) if token in self._specials]
                flags = [i <= ends[-1] for i in range(len(new))] if ends else flags
            ids, mask = ids + new, mask + flags
        return ids, mask


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found
