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

from btm.data.rows import BadRowError, Policy
from btm.data.streams import open_bytes

Rows = Iterator[tuple[int, object]]  # the line of each, and a record or why there is none
_PIECE = 1 << 16  # bytes that are read at once
_BLANKS = re.compile(r"[ \t\r\n]*")
_TOKEN = 16  # characters: no word of JSON is longer, so an error nearer to the end may be a cut
_ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8


def records(path: Path, policy: Policy) -> Rows:
    """Yield (line, record) of every record; the last may be a `BadRowError` in place of the rest.

    A text in a record that is no UTF-8 comes as bytes.
    """
    with open_bytes(path) as handle:
        text = _Window(handle, policy)
        try:
            while text.next_sign():
                if text.next_sign() != "[":
                    yield text.line, with_bytes(text.value())
                    continue
                text.take("[")
                while text.next_sign() != "]":
                    yield text.line, with_bytes(text.value())
                    if text.next_sign() != "]":
                        text.take(",")
                text.take("]")
        except BadRowError as bad:
            yield text.line, bad


def with_bytes(record: object) -> object:
    """Put bytes in place of the texts of a record that are no UTF-8."""
    if not isinstance(record, dict):
        return record
    return {key: _bytes_if_broken(value) for key, value in record.items()}


def _bytes_if_broken(value: object) -> object:
    if not isinstance(value, str) or value.isascii() or not _ESCAPED.search(value):
        return value
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return value


class _Window:
    """The part of a file that is being parsed: `text` from `at` on, which is on line `line`."""

    def __init__(self, handle: BinaryIO, policy: Policy) -> None:
        self.line = 1
        self._handle, self._policy = handle, policy
        self._text, self._at = "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._scan = json.JSONDecoder(parse_int=float).raw_decode
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
            if len(self._text) - self._at > self._policy.row_bytes:
                raise self._policy.too_long()
            # Doubled, as each attempt begins the value anew.
            self._read(max(_PIECE, len(self._text) - self._at))

    def _read(self, size: int = _PIECE) -> None:
        data = self._handle.read(size)
        self._ended = not data
        more = self._decoder.decode(data, final=self._ended)
        self._text, self._at = self._text[self._at :] + more, 0

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _error(self, what: str) -> BadRowError:
        return BadRowError(f"no JSON: {what}")
