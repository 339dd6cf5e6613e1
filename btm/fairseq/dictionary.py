"""`dict.txt`: the symbols of a fairseq model, one a line with its count, in the order of ids.

Four special symbols come before the first line and are not in the file. A dictionary is padded to a
multiple of 8 by ``madeupword0000`` …, which are symbols like any other. GPT-2's byte pairs are
written as their decimal ids.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from btm.errors import UserError
from btm.system import durable, lfs

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
FILE = "dict.txt"
_OVERWRITE = "#fairseq:overwrite"
_MADE_UP = re.compile(r"madeupword\d{4,}")
_MOST = 1 << 22  # symbols; a larger file is no dictionary
_MOST_COUNTED = 1 << 63


@dataclass(frozen=True)
class Dictionary:
    """All symbols by id, the special ones first, and how often each was seen."""

    symbols: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, symbols: list[str], counts: list[int] | None = None) -> "Dictionary":
        """Make a dictionary of ordinary `symbols`, which get the ids from 4 on."""
        return cls((*SPECIALS, *symbols), (*[1] * len(SPECIALS), *(counts or [1] * len(symbols))))

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each symbol, the later one where a line overwrites another."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @property
    def ordinary(self) -> dict[int, str]:
        """The symbols that text is made of, by id: without special ones and padding."""
        rest = list(enumerate(self.symbols))[len(SPECIALS) :]
        return {i: symbol for i, symbol in rest if not _MADE_UP.fullmatch(symbol)}

    @property
    def is_byte_pairs(self) -> bool:
        """Whether the symbols are ids of GPT-2's byte pairs in decimal digits."""
        ordinary = self.ordinary.values()
        return bool(ordinary) and all(symbol.isascii() and symbol.isdigit() for symbol in ordinary)


def read(path: Path) -> Dictionary:
    """Read the dictionary in `path`; `UserError` names the first line that is malformed."""
    lfs.refuse(path)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; wanted a fairseq dictionary") from None
    except UnicodeDecodeError as error:
        bad = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{bad}: no UTF-8: {error.reason}; wanted '<symbol> <count>'"
        ) from None
    lines = re.split(r"\r\n|\r|\n", text)  # the line ends of Python's text files
    lines = lines[:-1] if not lines[-1] else lines
    if not 0 < len(lines) <= _MOST:
        raise UserError(
            f"{path}: {len(lines):,} lines; wanted 1 to {_MOST:,} of '<symbol> <count>'"
        )
    symbols, counts, seen = [], [], set(SPECIALS)
    for number, line in enumerate(lines, 1):
        symbol, count, overwrite = _parse(path, number, line)
        if symbol in seen and not overwrite:
            raise UserError(
                f"{path}:{number}: {symbol!r} is there twice; remove a line, "
                f"or end it with {_OVERWRITE}"
            )
        seen.add(symbol)
        symbols.append(symbol)
        counts.append(count)
    return Dictionary.of(symbols, counts)


def write(path: Path, dictionary: Dictionary) -> None:
    """Publish a dict.txt as fairseq writes it."""
    first, seen, lines = len(SPECIALS), set(SPECIALS), []
    pairs = zip(dictionary.symbols[first:], dictionary.counts[first:], strict=True)
    for symbol, count in pairs:
        lines.append(f"{symbol} {count}{f' {_OVERWRITE}' if symbol in seen else ''}\n")
        seen.add(symbol)
    with durable.publish_file(path) as handle:
        handle.write("".join(lines).encode())


def _parse(path: Path, number: int, line: str) -> tuple[str, int, bool]:
    """Parse one line: its symbol, its count, and whether it may repeat a symbol."""
    line = line.rstrip()
    overwrite = line.endswith(f" {_OVERWRITE}")
    symbol, _, count = (line.removesuffix(f" {_OVERWRITE}") if overwrite else line).rpartition(" ")
    if not symbol or not re.fullmatch(r"[0-9]{1,19}", count) or int(count) >= _MOST_COUNTED:
        raise UserError(f"{path}:{number}: {line[:60]!r}; wanted '<symbol> <count>'")
    return symbol, int(count), overwrite
