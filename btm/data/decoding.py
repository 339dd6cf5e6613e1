"""The text of tokens that go on with a prompt, piece by piece as they come.

A token's text depends on those before it: decoders of sentencepiece drop the blank that a text
begins with, those of WordPiece join pieces of a word, and a character of several bytes may take
several tokens. So new tokens are decoded together with the tokens before them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what stands in a decoded text for bytes that are no whole character


class Continuation:
    """The text that goes on with a prompt, told token by token.

    Joined, the pieces are what follows the prompt's text in the text of all tokens. A character
    that the last tokens begin and do not finish is left out.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        """Begin after the tokens `prompt`."""
        self._tokenizer = tokenizer
        self._ids = list(prompt)  # those that the next ones are decoded with, and they themselves
        self._told = len(self._ids)  # of them
        self._known = _decoded(tokenizer, self._ids)

    def add(self, token: int) -> str:
        """Add a token; return the text that is whole since, empty within a character."""
        self._ids.append(token)
        text = _decoded(self._tokenizer, self._ids)
        if len(text) <= len(self._known) or text.endswith(_UNFINISHED):
            return ""
        piece = text[len(self._known) :]
        self._ids = self._ids[self._told :]
        self._told = len(self._ids)
        self._known = _decoded(self._tokenizer, self._ids)
        return piece

    def rest(self) -> str:
        """Return the text that is not told yet, without a character that is only begun."""
        text = _decoded(self._tokenizer, self._ids)
        return text[len(self._known) :].rstrip(_UNFINISHED)


def continuation(tokenizer: Any, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text that `tokens` add to that of `prompt`, each piece once its characters are
    whole.
    """
    text = Continuation(tokenizer, prompt)
    for token in tokens:
        if piece := text.add(token):
            yield piece
    if rest := text.rest():
        yield rest


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode tokens as they are: tidied, a later token would change the text before it."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
