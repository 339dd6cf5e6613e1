"""The records of a .json file, in bounded memory whatever the size of the file.

Such a file is an array of records, one record, or records one after another, be they on a line each
(as C4's and those of pandas) or over several. Which it is shows while it is read.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from btm.errors import UserError

_PIECE = 1 << 16  # bytes that are read at once
_BLANKS = re.compile(r"[ \t\r\n]*")
_TOKEN = 16  # characters: no word of JSON is longer, so an error nearer to the end may be a cut


def records(path: Path, handle: BinaryIO, longest: int) -> Iterator[tuple[int, object]]:
    """Yield (line, value) of every record; `longest` bounds a record, in characters.

    Raises `UserError`, naming `path` and the line, for what is no JSON and for a longer record.
    """
    text = _Window(path, handle, longest)
    while text.next_sign():
        if text.next_sign() != "[":
            yield text.line, text.value()
            continue
        text.take("[")
        if text.next_sign() == "]":
            text.take("]")
            continue
        while True:
            yield text.line, text.value()
            if text.next_sign() == "]":
                text.take("]")
                break
            text.take(",")
            text.next_sign()


class _Window:
    """The part of a file that is being parsed: `text` from `at` on, which is on line `line`."""

    def __init__(self, path: Path, handle: BinaryIO, longest: int) -> None:
        self.line = 1
        self._path, self._handle, self._longest = path, handle, longest
        self._text, self._at = "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._ended = False
        self._read()
        self._text = self._text.removeprefix("\ufeff")

    def next_sign(self) -> str:
        """Pass blanks over and show the character behind them; empty at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._advance(blanks.end() if blanks else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read()

    def take(self, sign: str) -> None:
        """Pass over a sign that must stand here."""
        found = self.next_sign()
        if found != sign:
            raise self._error(f"expecting {sign!r}, found {found or 'the end of the file'!r}")
        self._advance(self._at + 1)

    def value(self) -> object:
        """Parse the value that begins here, reading on until it is whole."""
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _TOKEN
                if self._ended or not cut:
                    self._advance(min(error.pos, len(self._text)))
                    raise self._error(error.msg) from None
            except RecursionError:
                raise self._error("nested too deeply") from None
            else:
                self._advance(end)
                return value
            if len(self._text) - self._at > self._longest:
                raise UserError(
                    f"{self._path}:{self.line}: a record of more than {self._longest:,} "
                    "characters; wanted a record for each document"
                )
            # Doubled, as each attempt begins the value anew.
            self._read(max(_PIECE, len(self._text) - self._at))

    def _read(self, size: int = _PIECE) -> None:
        data = self._handle.read(size)
        self._ended = not data
        try:
            more = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            # Lines of what stands before the byte, in the text that is kept and in this piece.
            self.line += self._text.count("\n", self._at) + data[: error.start].count(b"\n")
            raise UserError(f"{self._path}:{self.line}: no UTF-8: {error.reason}") from None
        self._text, self._at = self._text[self._at :] + more, 0

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _error(self, what: str) -> UserError:
        return UserError(f"{self._path}:{self.line}: no JSON: {what}")
