"""The text of tokens that go on with a prompt, piece by piece as they come.

A token's text depends on those before it: decoders of sentencepiece drop the blank that a text
begins with, those of WordPiece join pieces of a word, and a character of several bytes may take
several tokens. So new tokens are decoded together with the tokens before them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what stands in a decoded text for bytes that are no whole character


def continuation(tokenizer: Any, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text that `tokens` add to that of `prompt`, each piece once its characters are
    whole.

    Joined, the pieces are what follows the prompt's text in the text of all tokens. A character
    that the last tokens begin and do not finish is left out.
    """
    ids = list(prompt)
    begin, end = 0, len(ids)  # the tokens that the next ones are decoded with: their text is out
    known = _decoded(tokenizer, ids)
    for token in tokens:
        ids.append(token)
        text = _decoded(tokenizer, ids[begin:])
        if len(text) > len(known) and not text.endswith(_UNFINISHED):
            yield text[len(known) :]
            begin, end = end, len(ids)
            known = _decoded(tokenizer, ids[begin:end])
    rest = _decoded(tokenizer, ids[begin:])[len(known) :].rstrip(_UNFINISHED)
    if rest:
        yield rest


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode tokens as they are: tidied, a later token would change the text before it."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
