"""Long lines of JSON: a string of many megabytes is unescaped piece by piece.

A text takes up to four bytes a character in memory once it holds one rare character, so a line, the
same decoded, and its text would together take nine times the line. Here a piece is decoded at once.
"""

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

LONG = 1 << 23  # bytes from which a line is long
_LITERAL = 1 << 20  # bytes from which a string in it is
_PIECE = 1 << 20  # bytes of a string that are unescaped at once
_REACH = 1 << 16  # bytes within which a place to cut is looked for
_ESCAPE = 12  # bytes of the longest escape, a pair of surrogates
_HIGH = re.compile(rb"\\u[dD][89abAB]..")
_MARK = uuid.uuid4().hex  # stands for a string that was taken out; no file can know it


class LongLine:
    """A line without its long strings, which are unescaped only where one is asked for."""

    def __init__(self, line: bytes) -> None:
        """Take the long strings out of a line that may be broken."""
        self._long: list[bytes] = []
        short = bytearray()
        done = 0
        for begin, end in _strings(line):
            if end - begin < _LITERAL:
                continue
            short += line[done:begin] + f"{_MARK}{len(self._long)}".encode()
            self._long.append(line[begin:end])
            done = end
        self.short = bytes(short + line[done:])

    def text(self, value: Any) -> Any:
        """Return the value of a field, with the string that was taken out if there was one.

        Raises `UnicodeDecodeError` or `json.JSONDecodeError` if that string is broken.
        """
        if not isinstance(value, str) or not value.startswith(_MARK):
            return value
        number = int(value.removeprefix(_MARK))
        content, self._long = self._long[number], []
        pieces = list(_unescaped(content))
        del content  # before the text of all pieces is made
        return "".join(pieces)


def _strings(line: bytes) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of the content of each string in a line of JSON."""
    begin = line.find(b'"') + 1
    while begin:
        end = line.find(b'"', begin)
        while end > 0 and _is_escaped(line, end, begin):
            end = line.find(b'"', end + 1)
        if end < 0:
            return
        yield begin, end
        begin = line.find(b'"', end + 1) + 1


def _is_escaped(data: bytes, at: int, since: int) -> bool:
    """Tell whether an odd number of backslashes stands before a place, `since` another one."""
    first = at
    while first > since and data[first - 1] == ord("\\"):
        first -= 1
    return (at - first) % 2 == 1


def _unescaped(content: bytes) -> Iterator[str]:
    """Yield the text of a string in JSON piece by piece."""
    begin = 0
    while begin < len(content):
        end = _cut(content, begin, begin + _PIECE)
        yield json.loads(b'"' + content[begin:end] + b'"')
        begin = end


def _cut(content: bytes, begin: int, wanted: int) -> int:
    """Find a place at or before `wanted` that is within no character and no escape.

    `begin` is one already.
    """
    if wanted >= len(content):
        return len(content)
    for at in range(wanted, wanted - _REACH, -1):
        if content[at] & 0xC0 == 0x80:  # within a character of UTF-8
            continue
        before = content[max(begin, at - _ESCAPE) : at]
        if b"\\" not in before:
            return at
        # An escape may begin here, unless it is the second half of a pair of surrogates.
        begins = content[at] == ord("\\") and not _is_escaped(content, at, begin)
        if begins and not _HIGH.fullmatch(before[-6:]):
            return at
    return len(content)
