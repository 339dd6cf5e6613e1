"""The text column of tables that need no pyarrow: CSV and TSV."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from btm.data.formats import inner_ending
from btm.data.json_stream import with_bytes
from btm.data.rows import BadRowError, Policy, missing
from btm.data.streams import open_bytes

_HEADER = 1 << 16  # bytes of the header that are looked at


def read_table(path: Path, column: str, policy: Policy) -> Iterator[tuple[int, object]]:
    """Yield (line, {column: text}) of each row of a .csv or .tsv file; None where a row is short.

    A `BadRowError` stands in place of a file without that column or with two of it, or of the rest
    of a broken one. A text that is no UTF-8 comes as bytes.
    """
    csv.field_size_limit(policy.row_bytes)
    with (
        open_bytes(path) as handle,
        io.TextIOWrapper(handle, "utf-8-sig", "surrogateescape", newline="") as text,
    ):
        # Strict, since a quote that nothing closes would swallow the rows behind it.
        rows = csv.reader(text, delimiter=_delimiter(path), strict=True)
        try:
            header = next(rows, [])
            if column not in header:
                yield 0, missing(column, dict.fromkeys(header, ""))
                return
            if header.count(column) > 1:
                yield 0, BadRowError(f"two columns {column!r}", "keep one, or rename the other")
                return
            place = header.index(column)
            for row in rows:
                if row:
                    value = row[place] if place < len(row) else None
                    yield rows.line_num, with_bytes({column: value})
        except csv.Error as error:
            yield rows.line_num, BadRowError(f"no table from here on: {error}")


def header_of(path: Path) -> list[str]:
    """Read the header of a .csv or .tsv file; `ValueError` if it begins with no table."""
    with open_bytes(path) as handle:
        start = handle.read(_HEADER).decode("utf-8-sig", "replace")
    if "\0" in start:
        raise ValueError("NUL bytes")
    try:
        return next(csv.reader(io.StringIO(start, newline=""), delimiter=_delimiter(path)), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _delimiter(path: Path) -> str:
    """Choose what divides the most columns of a header; of equals, what the ending says."""
    usual = "\t" if inner_ending(path) == ".tsv" else ","
    return max((usual, ",", ";", "\t"), key=_first_line(path).count)


def _first_line(path: Path) -> str:
    with open_bytes(path) as handle:
        return handle.readline(_HEADER).decode("utf-8-sig", "replace")
