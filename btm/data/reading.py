"""The documents of one file, in bounded memory, whatever stands in its rows (btm/data/rows.py)."""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from btm.data.columns import read_table
from btm.data.formats import ARROW, JSON, LINES, PARQUET, TEXT, format_of
from btm.data.json_stream import records
from btm.data.rows import BadRowError, Doubled, Policy, checked, decoded, missing, no_utf8, text_of
from btm.data.streams import DAMAGED, open_bytes
from btm.errors import UserError
from btm.system import lfs
from btm.system.extras import install

DOCUMENT_CHARS = 4_000  # after these a plain text is cut at the next blank line
LONGEST_PARAGRAPH = 64_000  # characters after which it is cut even without one
REFUSE = Policy()
_PIECE = 1 << 16  # bytes of a plain text that are read at once
_REST = 1 << 20  # bytes of a line that is too long, read at once to get over it
_BATCH_BYTES = 16 << 20  # of a parquet column, decoded at once
_BATCH_ROWS = 256
_ARROW_FILE = b"ARROW1"
_MARKS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
}
_A_LINE = "write one object a line (of an array: jq -c '.[]' FILE)"
# An integer of more digits than Python converts is no reason to refuse the text beside it.
_JSON = json.JSONDecoder(parse_int=float)
_JSON_OF_PAIRS = json.JSONDecoder(
    parse_int=float,
    object_pairs_hook=lambda pairs: (
        Doubled(pairs) if len({k for k, _ in pairs}) < len(pairs) else dict(pairs)
    ),
)


@dataclass
class _Place:
    """Where in a file reading has come to: the number of the line or row that was read last."""

    path: Path
    number: int = 0


def read(path: Path, column: str, policy: Policy = REFUSE) -> Iterator[str]:
    """Yield the documents of one file that are not blank.

    `column` names the text in JSON and tables; `policy` says what becomes of rows without it.
    """
    place = _Place(path)
    lfs.refuse(path)
    try:
        if not path.stat().st_size:
            policy.reject(path, 0, BadRowError("the file is empty", "fill or remove it"))
            return
        form = format_of(path) or TEXT
        if form == PARQUET:
            texts = _read_parquet(place, column, policy)
        elif form == ARROW:
            texts = _read_arrow(place, column, policy)
        elif form == TEXT:
            texts = _read_text(place, policy)
        elif form == LINES or (form == JSON and _is_a_record_a_line(path)):
            texts = _read_json(place, column, policy)
        else:
            texts = _read_rows(place, form, column, policy)
        yield from (text for text in texts if text and not text.isspace())
    except DAMAGED as error:
        bad = BadRowError(f"cannot be read from here on: {_first_line(error)}")
        policy.reject(path, place.number + 1, bad)
    except OSError as error:
        if error.errno is None:  # of bz2, which names no error of its own
            bad = BadRowError(f"cannot be read from here on: {_first_line(error)}")
            policy.reject(path, place.number + 1, bad)
            return
        raise UserError(f"{path}: cannot be read: {error.strerror or _first_line(error)}") from None


def _read_json(place: _Place, column: str, policy: Policy) -> Iterator[str]:
    with open_bytes(place.path) as handle:
        for line in _lines(place, handle, policy):
            try:
                _require_utf8(line, place)
                text = _parse(line, column)
            except BadRowError as bad:
                policy.reject(place.path, place.number, bad)
                if isinstance(bad, _WholeFileError):
                    return
                continue
            yield text


def _lines(place: _Place, handle: BinaryIO, policy: Policy) -> Iterator[bytes]:
    """Yield whole lines that are not too long."""
    while line := handle.readline(policy.row_bytes + 1):
        place.number += 1
        if len(line) <= policy.row_bytes:
            yield line
            continue
        policy.reject(place.path, place.number, policy.too_long())
        while line and not line.endswith(b"\n"):
            line = handle.readline(_REST)


class _WholeFileError(BadRowError):
    """A file of which no row can be read."""


def _require_utf8(line: bytes, place: _Place) -> None:
    """Raise `_WholeFileError` if the first line of a file begins with another encoding's mark."""
    if place.number > 1:
        return
    for mark, name in _MARKS.items():
        if line.startswith(mark):
            raise _WholeFileError(
                f"the file is {name}, where UTF-8 is wanted", f"write it again (iconv -f {name})"
            )


def _parse(line: bytes, column: str) -> str:
    """Find the text in a line of JSON, "" in a blank one."""
    text = decoded(line.removeprefix(codecs.BOM_UTF8))
    if not text or text.isspace():
        return ""
    try:
        record = _JSON.decode(text)
        if line.count(f'"{column.rpartition(".")[2]}"'.encode()) > 1:
            record = _JSON_OF_PAIRS.decode(text)
    except json.JSONDecodeError as error:
        if b"\0" in line:
            raise BadRowError("no JSON but NUL bytes", "write it as UTF-8, or mend it") from None
        remedy = _A_LINE if text.strip() in ("[", "{") else "mend it"
        raise BadRowError(f"no JSON: {error.msg} (character {error.pos + 1})", remedy) from None
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"no JSON: {_first_line(error)}") from None
    if isinstance(record, list):
        raise BadRowError("a JSON array, where an object a line is wanted", _A_LINE)
    return text_of(record, column)


def _is_a_record_a_line(path: Path) -> bool:
    """Tell whether the first line of a .json file is a whole object."""
    with open_bytes(path) as handle:
        line = handle.readline(_REST)
    try:
        return isinstance(_JSON.decode(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _read_rows(place: _Place, form: str, column: str, policy: Policy) -> Iterator[str]:
    """Yield the texts of a .json file or of a table without pyarrow."""
    path = place.path
    try:
        with open_bytes(path) as handle:
            _require_utf8(handle.readline(_REST), place)
    except BadRowError as bad:
        policy.reject(path, 0, bad)
        return
    for number, row in records(path, policy) if form == JSON else read_table(path, column, policy):
        place.number = number
        try:
            if isinstance(row, BadRowError):
                raise row
            text = text_of(row, column)
            if len(text) > policy.row_bytes:
                raise policy.too_long()
        except BadRowError as bad:
            policy.reject(path, number, bad)
            continue
        yield text


def _read_text(place: _Place, policy: Policy) -> Iterator[str]:
    """Yield documents of about `DOCUMENT_CHARS`; joined they are the file again.

    A document with bytes that are no text is left out whole.
    """
    parts: list[str] = []
    chars = 0
    worst: tuple[int, BadRowError] | None = None
    for piece, bad in _text_pieces(place):
        parts.append(piece)
        chars += len(piece)
        if bad is not None and worst is None:
            worst = (place.number, bad)
        if chars < LONGEST_PARAGRAPH and (chars < DOCUMENT_CHARS or not piece.isspace()):
            continue
        if worst is None:
            yield "".join(parts)
        else:
            policy.reject(place.path, *worst)
        parts, chars, worst = [], 0, None
    if worst is None:
        yield "".join(parts)
    else:
        policy.reject(place.path, *worst)


def _text_pieces(place: _Place) -> Iterator[tuple[str, BadRowError | None]]:
    """Yield the file's lines, those that are longer than `_PIECE` bytes in several pieces.

    Beside each stands why it is no text, or None.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(place.path) as handle:
        line = handle.readline(_PIECE)
        place.number = 1
        try:
            _require_utf8(line, place)
        except _WholeFileError as bad:
            yield "", bad
            return
        line = line.removeprefix(codecs.BOM_UTF8)
        while line:
            following = handle.readline(_PIECE)
            ended = line.endswith(b"\n")
            wrong = None
            try:
                piece = decoder.decode(line, final=ended or not following)
            except UnicodeDecodeError as error:
                wrong = no_utf8(error, error.object)
                decoder.reset()
                piece = line.decode("utf-8", "replace")
            if "\0" in piece and wrong is None:
                wrong = BadRowError("holds NUL bytes, which are no text", "write it as UTF-8")
            yield piece, wrong
            place.number += ended
            line = following


def _read_parquet(place: _Place, column: str, policy: Policy) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{place.path}: parquet needs pyarrow; run: {install('parquet')}") from None
    try:
        file = parquet.ParquetFile(place.path)
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        policy.reject(place.path, 0, BadRowError(f"cannot be read: {_first_line(error)}"))
        return
    with file:
        try:
            top, inner = column_of(file.schema_arrow, column)
        except BadRowError as bad:
            policy.reject(place.path, 0, bad, file.metadata.num_rows)
            return
        for group in range(file.num_row_groups):
            yield from _read_group(file, group, top, inner, place, column, policy)


def _read_group(
    file: Any, group: int, top: str, inner: list[str], place: _Place, column: str, policy: Policy
) -> Iterator[str]:
    """Yield the texts of one row group; what cannot be decoded is left out to its end."""
    facts = file.metadata.row_group(group)
    end = place.number + facts.num_rows
    chunks = [facts.column(i) for i in range(facts.num_columns)]
    size = sum(
        c.total_uncompressed_size for c in chunks if f"{c.path_in_schema}.".startswith(f"{top}.")
    )
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * facts.num_rows // max(1, size)))
    batches = file.iter_batches(batch_size=rows, row_groups=[group], columns=[top])
    while True:
        try:
            batch = next(batches, None)
            values = None if batch is None else values_of(batch.column(0), inner)
        except (OSError, ValueError) as error:
            why = f"row group {group + 1} cannot be read from here on: {_first_line(error)}"
            policy.reject(
                place.path, place.number + 1, BadRowError(why), max(1, end - place.number)
            )
            place.number = end
            return
        if values is None:
            return
        for value in values:
            place.number += 1
            if text := usable(value, place.path, place.number, column, policy):
                yield text


def _read_arrow(place: _Place, column: str, policy: Policy) -> Iterator[str]:
    """Yield the texts of an Arrow file, or of a stream, which is what `datasets` writes."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{place.path}: Arrow needs pyarrow; run: {install('parquet')}") from None
    with pyarrow.memory_map(str(place.path)) as mapped:
        try:
            schema, batches = _batches_of(mapped)
            top, inner = column_of(schema, column)
            for batch in batches:
                values = batch.column(schema.get_field_index(top))
                for begin in range(0, len(values), _BATCH_ROWS):
                    for value in values_of(values.slice(begin, _BATCH_ROWS), inner):
                        place.number += 1
                        if text := usable(value, place.path, place.number, column, policy):
                            yield text
        except BadRowError as without:
            policy.reject(place.path, 0, without)
        except (OSError, ValueError) as error:
            bad = BadRowError(f"cannot be read from here on: {_first_line(error)}")
            policy.reject(place.path, place.number + 1, bad)


def _batches_of(mapped: Any) -> tuple[Any, Iterator[Any]]:
    """Give the schema and the record batches of Arrow's format for files or for streams."""
    from pyarrow import ipc

    # That for files begins with this mark; that for streams has none.
    is_file = mapped.read(len(_ARROW_FILE)) == _ARROW_FILE
    mapped.seek(0)
    if not is_file:
        stream = ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    file = ipc.open_file(mapped)
    return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))


def column_of(schema: Any, column: str) -> tuple[str, list[str]]:
    """Find a column of an Arrow schema: its name, and fields within it; `BadRowError` if none.

    The longest name that a path of fields can begin with counts.
    """
    import pyarrow

    parts = column.split(".")
    for n in range(len(parts), 0, -1):
        top, inner = ".".join(parts[:n]), parts[n:]
        if top not in schema.names:
            continue
        kind = schema.field(top).type
        while inner and pyarrow.types.is_struct(kind) and kind.get_field_index(inner[0]) >= 0:
            kind, inner = kind.field(inner[0]).type, inner[1:]
        if not inner:
            return top, parts[n:]
    raise missing(column, {name: _example(schema.field(name).type) for name in schema.names})


def _example(kind: Any) -> object:
    """Make a value of an Arrow type, so far as it can hold text."""
    import pyarrow

    types = pyarrow.types
    if types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return {each.name: _example(each.type) for each in fields}
    if types.is_dictionary(kind):
        return _example(kind.value_type)
    return "" if types.is_string(kind) or types.is_large_string(kind) else None


def values_of(array: Any, inner: list[str]) -> list[Any]:
    """List the values of an Arrow array, of fields within a struct where `inner` names them.

    Text that is no UTF-8 comes as bytes.
    """
    import pyarrow
    from pyarrow import compute

    for name in inner:
        array = compute.struct_field(array, name)
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        if pyarrow.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array.cast(pyarrow.large_binary()).to_pylist()


def usable(value: object, path: Path, number: int, column: str, policy: Policy) -> str:
    """Return a table's value as text, "" for one that `policy` leaves out."""
    try:
        if isinstance(value, str | bytes) and policy.is_too_long(value):
            raise policy.too_long()
        return checked(value, column)
    except BadRowError as bad:
        policy.reject(path, number, bad)
        return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
