"""The text column of tables: CSV and TSV, and Arrow as `datasets` and others write it."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from btm.data.formats import inner_ending
from btm.data.streams import open_bytes
from btm.errors import UserError
from btm.system.extras import install

Row = dict[str, Any]
_BATCH = 256  # rows that are made strings of Python at once
_ARROW_FILE = b"ARROW1"  # how Arrow's format for files begins; that for streams has no such mark


def read_table(path: Path, column: str, longest: int) -> Iterator[tuple[int, Row]]:
    """Yield (line, {column: text}) of each row of a .csv or .tsv file; None where a row is short.

    `longest` bounds a field, in characters. Raises `UserError` without such a column.
    """
    csv.field_size_limit(longest)
    with open_bytes(path) as handle, io.TextIOWrapper(handle, "utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter=_delimiter(path, column))
        try:
            header = next(rows, [])
            if column not in header:
                raise _no_column(path, column, header)
            place = header.index(column)
            for row in rows:
                if row:
                    yield rows.line_num, {column: row[place] if place < len(row) else None}
        except csv.Error as error:
            raise UserError(f"{path}:{rows.line_num}: no table: {error}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{rows.line_num + 1}: no UTF-8: {error.reason}") from None


def header_of(path: Path) -> list[str]:
    """Read the header of a .csv or .tsv file; `UserError` if it is none."""
    with open_bytes(path) as handle:
        line = handle.readline(1 << 16).decode("utf-8-sig", "replace")
    return next(csv.reader([line], delimiter=_best_delimiter(path, line)), [])


def read_arrow(path: Path, column: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, {column: value}) of each row of an Arrow file or stream, in bounded memory.

    Of a nested column, `doc.text`, it is the outer one: {"doc": value}.

    Raises `UserError` without pyarrow or such a column.
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{path}: Arrow needs pyarrow; run: {install('parquet')}") from None
    row = 0
    with pyarrow.memory_map(str(path)) as mapped:
        for batch in _batches(mapped, path, column):
            name = _outer(column, batch.schema.names)
            values = batch.column(batch.schema.get_field_index(name))
            for start in range(0, len(values), _BATCH):
                for value in values.slice(start, _BATCH).to_pylist():
                    row += 1
                    yield row, {name: value}


def _batches(mapped: Any, path: Path, column: str) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, or of a stream if it does not begin as a file."""
    from pyarrow import ipc

    is_file = mapped.read(len(_ARROW_FILE)) == _ARROW_FILE
    mapped.seek(0)
    reader = ipc.open_file(mapped) if is_file else ipc.open_stream(mapped)
    if _outer(column, reader.schema.names) not in reader.schema.names:
        raise _no_column(path, column, reader.schema.names)
    if is_file:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from reader


def _outer(column: str, names: list[str]) -> str:
    """Name the column of a table that holds `column`, which may be a field within it."""
    return column if column in names else column.partition(".")[0]


def _delimiter(path: Path, column: str) -> str:
    with open_bytes(path) as handle:
        return _best_delimiter(path, handle.readline(1 << 16).decode("utf-8-sig", "replace"))


def _best_delimiter(path: Path, header: str) -> str:
    """Choose what divides the most columns of a header; of equals, what the ending says."""
    usual = "\t" if inner_ending(path) == ".tsv" else ","
    return max((usual, ",", ";", "\t"), key=header.count)


def _no_column(path: Path, column: str, found: list[str]) -> UserError:
    have = ", ".join(map(repr, found)) or "nothing"
    return UserError(f"{path}: no column {column!r}; found {have} (set data.text_column)")
