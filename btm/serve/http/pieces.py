"""The text of single tokens, and the place where each begins in the text of all."""

import re
from collections.abc import Sequence
from typing import Any

from btm.data.bytelevel import alphabet
from btm.data.decoding import Continuation

_UNFINISHED = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte of sentencepiece's models


class Pieces:
    """The tokens of a tokenizer as answers show them."""

    def __init__(self, tokenizer: Any) -> None:
        """Look at what its tokens are made of."""
        self.tokenizer = tokenizer
        self._letters = alphabet() if _is_byte_level(tokenizer) else {}
        # Decoders drop the blank of a first token, so each is decoded behind another one.
        self._before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """Write a token; one that is a part of a character as OpenAI does: ``bytes:\\xe4\\xb8``."""
        if token not in self._texts:
            text = self._decoded([*self._before, token])[len(self._decoded(self._before)) :]
            if _UNFINISHED in text:
                text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token))
            self._texts[token] = text
        return self._texts[token]

    def bytes(self, token: int) -> bytes:
        """Return the bytes of a token in UTF-8, of one that is a part of a character too."""
        word = str(self.tokenizer.convert_ids_to_tokens(token) or "")
        if found := _BYTE.fullmatch(word):
            return bytes([int(found[1], 16)])
        is_added = token in self.tokenizer.added_tokens_decoder
        if self._letters and not is_added and all(letter in self._letters for letter in word):
            return bytes(self._letters[letter] for letter in word)
        text = self._decoded([*self._before, token])[len(self._decoded(self._before)) :]
        return text.encode()

    def keys(self, tokens: Sequence[int]) -> list[str]:
        """Write tokens so that all differ: of two with one text, the later is named by its id."""
        found: dict[str, int] = {}
        for token in tokens:
            text = self.text(token)
            is_taken = found.get(text, token) != token
            found.setdefault(f"token_id:{token}" if is_taken else text, token)
        return list(found)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


class Places:
    """Where tokens begin in the text that they add to a prompt's, as they come."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        """Begin at place 0, after the tokens `prompt`."""
        self._text = Continuation(tokenizer, prompt)
        self.place = 0

    def add(self, token: int) -> int:
        """Add a token; return its place. One that goes on with a character has that one's place."""
        place = self.place
        self.place += len(self._text.add(token))
        return place


def _is_byte_level(tokenizer: Any) -> bool:
    return "ByteLevel" in repr(getattr(tokenizer.backend_tokenizer, "decoder", None))
