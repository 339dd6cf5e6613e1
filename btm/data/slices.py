"""Long documents in slices, so that no step takes memory or time by the length of one document.

GPT-2's pattern splits a text into words: a blank and letters, digits or other characters. `slices`
cuts where a word ends in any case, so the words, and with them the tokens, stay as they are; only
within a word as long as a slice it has to cut somewhere. `short_words` is for the training of a
tokenizer, whose time and memory grow with the longest word: it cuts those that no language has.
"""

import re
from collections.abc import Iterator
from itertools import groupby

# Unicode's White_Space: the meaning of \s in tokenizers, and other than that of str.isspace.
BLANKS = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    + "".join(map(chr, range(0x2000, 0x200B)))
)
SLICE = 1 << 18  # characters of a document that are looked at at once
WORD = 1 << 10  # characters of a word that a tokenizer is trained on
_PIECE = 1 << 20  # characters that are encoded as UTF-8 at once
_RUN = re.compile(rf"\S{{{WORD},}}+|\s{{{WORD},}}+")


def utf8(text: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the UTF-8 of a text, from `begin` to `end`, piece by piece."""
    last = len(text) if end is None else end
    for at in range(begin, last, _PIECE):
        yield text[at : min(at + _PIECE, last)].encode()


def utf8_size(text: str) -> int:
    """Count the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else sum(map(len, utf8(text)))


def without_blanks(text: str) -> tuple[int, int]:
    """Find where a text begins and ends without the blanks around it, as str.strip would leave it.

    It copies no more than a piece at once.
    """
    begin, end = 0, len(text)
    while begin < end:
        piece = text[begin : begin + _PIECE]
        begin += len(piece) - len(piece.lstrip())
        if not piece.isspace():
            break
    while begin < end:
        piece = text[max(begin, end - _PIECE) : end]
        end -= len(piece) - len(piece.rstrip())
        if not piece.isspace():
            break
    return begin, end


def slices(text: str, size: int = SLICE) -> Iterator[str]:
    """Yield a text in slices of at most `size` characters, cut where a word of GPT-2 ends.

    Where the last three quarters of a slice are one word, it is cut within.
    """
    begin = 0
    while len(text) - begin > size:
        end = begin + size
        for i in range(end, end - 3 * size // 4, -1):
            if _parts(text[i - 1], text[i]):
                end = i
                break
        yield text[begin:end]
        begin = end
    yield text[begin:] if begin else text


def short_words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield a text in parts that hold no word of more than `WORD` characters.

    Beside each stands whether it is a piece of such a word alone. A text without them is yielded in
    `slices`, which have the same words.
    """
    for part in slices(text):
        begin = 0
        for run in _RUN.finditer(part) if _may_have_run(part) else ():
            for first, last in _long_words(part, *run.span()):
                if first > begin:
                    yield part[begin:first], False
                for cut in range(first, last, WORD):
                    yield part[cut : min(cut + WORD, last)], True
                begin = last
        if begin < len(part):
            yield part[begin:], False


def _may_have_run(text: str) -> bool:
    """Tell whether `WORD` characters may follow one another without a blank, or all blank.

    Such a run would fill one of the halves that are looked at.
    """
    half = WORD // 2
    for begin in range(0, len(text) - half + 1, half):
        part = text[begin : begin + half]
        if (" " not in part and "\n" not in part) or part.isspace():
            return True
    return False


def _parts(before: str, after: str) -> bool:
    """Tell whether a word of GPT-2 ends between two characters, whatever stands around them."""
    if after in BLANKS:
        return before not in BLANKS
    return before.isalpha() and not after.isalpha()


def _long_words(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where words of more than `WORD` characters stand within a part of a text."""
    at = begin
    for _, same in groupby(text[begin:end], _kind):
        length = sum(1 for _ in same)
        if length > WORD:
            yield at, at + length
        at += length


def _kind(char: str) -> int:
    """Tell letters, digits, blanks and all else apart, as GPT-2 does."""
    return 0 if char.isalpha() else 1 if char.isnumeric() else 2 if char in BLANKS else 3
