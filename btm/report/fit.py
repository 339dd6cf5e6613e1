"""How a table fits a terminal: which columns are shown, and how wide each is.

Text wraps first, in the widest columns; then the columns that are needed least are left out. A
number is never cut or wrapped.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

# The longest word of a text that is kept whole: a moment where there is room, a name elsewhere.
_WHOLE = (25, 16)
BETWEEN = 3  # columns between two columns of a table
EDGES = 2  # columns beside the first and the last


@dataclass(frozen=True)
class Column:
    """One column of a table, as text."""

    name: str
    cells: tuple[str, ...]
    is_number: bool

    @property
    def natural(self) -> int:
        """The width that nothing wraps in."""
        return max(map(width_of, (self.name, *self.cells)))

    def least(self, whole: int = _WHOLE[-1]) -> int:
        """Measure the smallest width that keeps words of up to `whole` characters whole."""
        head = max(map(width_of, header_words(self.name)))
        if self.is_number:
            return max(head, *map(width_of, self.cells))
        words = (word for cell in self.cells for word in cell.split())
        return max(head, min(whole, max(map(width_of, words), default=0)))


def terminal_width(stream: IO[str]) -> int | None:
    """Tell the width of the terminal behind `stream`, COLUMNS before all; None if there is none."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if stream is None or not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a terminal that has no size
        return None


def fit(columns: Sequence[Column], width: int, spare: Sequence[str]) -> list[tuple[Column, int]]:
    """Choose the columns that fit `width`, and how wide each is.

    Those in `spare` go first, in this order, then others from the right; the first column stays.
    """
    shown = list(columns)
    leaving = [column for name in spare for column in columns[1:] if column.name == name]
    leaving += [column for column in reversed(columns[1:]) if column not in leaving]
    while _total([column.least() for column in shown]) > width and len(shown) > 1:
        shown.remove(leaving.pop(0))
    least = next(
        (found for whole in _WHOLE if _total(found := [c.least(whole) for c in shown]) <= width),
        [column.least() for column in shown],
    )
    # The widest are narrowed to one common bound, the largest that fits.
    bound = max(column.natural for column in shown)
    while _total(_widths(shown, least, bound)) > width and bound > 1:
        bound -= 1
    return list(zip(shown, _widths(shown, least, bound), strict=True))


def _widths(columns: Sequence[Column], least: Sequence[int], bound: int) -> list[int]:
    return [min(c.natural, max(low, bound)) for c, low in zip(columns, least, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + BETWEEN * (len(widths) - 1) + EDGES


def header_words(name: str) -> list[str]:
    """Split a column's name where it may wrap: after a blank or an underscore."""
    return re.findall(r"[^ _]*_|(?:/ )?[^ _]+", name) or [name]


def wrapped_header(name: str, width: int) -> str:
    """Wrap a column's name into lines of at most `width`, where its words allow it."""
    lines: list[str] = []
    for word in header_words(name):
        joint = "" if not lines or lines[-1].endswith("_") else " "
        if lines and width_of(lines[-1] + joint + word) <= width:
            lines[-1] += joint + word
        else:
            lines.append(word)
    return "\n".join(lines)


def width_of(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()), default=0)
