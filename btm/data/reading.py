"""The documents of one file, in bounded memory, whatever stands in its rows (btm/data/rows.py)."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from btm.data.arrow import read_arrow
from btm.data.columns import read_table
from btm.data.formats import ARROW, JSON, LINES, PARQUET, TEXT, format_of
from btm.data.json_stream import records
from btm.data.long_lines import LONG, LongLine
from btm.data.rows import BadRowError, Doubled, Place, Policy, checked, decoded, no_utf8, text_of
from btm.data.streams import DAMAGED, open_bytes
from btm.data.tables import read_parquet
from btm.errors import UserError, first_line
from btm.system import lfs

DOCUMENT_CHARS = 4_000  # after these a plain text is cut at the next blank line
LONGEST_PARAGRAPH = 64_000  # characters after which it is cut even without one
REFUSE = Policy()
_PIECE = 1 << 16  # bytes of a plain text that are read at once
_REST = 1 << 20  # bytes of a line that is too long, read at once to get over it
_MARKS = {  # the first that fits counts
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
# How files begin that have lost their ending, or have a wrong one.
_BINARY = {
    b"\x1f\x8b": ("compressed by gzip", ".gz"),
    b"BZh91AY&SY": ("compressed by bzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("compressed by xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", ".zst"),
    b"PAR1\x15": ("parquet", ".parquet"),
    b"ARROW1\x00": ("Arrow", ".arrow"),
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


def read(path: Path, column: str, policy: Policy = REFUSE) -> Iterator[str]:
    """Yield the documents of one file that are not blank.

    `column` names the text in JSON and tables; `policy` says what becomes of rows without it.
    """
    place = Place(path)
    lfs.refuse(path)
    try:
        if not path.stat().st_size:
            policy.reject(path, 0, BadRowError("the file is empty", "fill or remove it"))
            return
        form = format_of(path) or TEXT
        if policy.reader and form not in (LINES, JSON):
            policy.reject(
                path,
                0,
                BadRowError(
                    "no JSON, which prompted data is",
                    "write a JSON object a line into a .jsonl file",
                ),
            )
            return
        if form == PARQUET:
            texts = read_parquet(place, column, policy)
        elif form == ARROW:
            texts = read_arrow(place, column, policy)
        elif form == TEXT:
            texts = _read_text(place, policy)
        elif form == LINES or (form == JSON and _is_a_record_a_line(path)):
            texts = _read_json(place, column, policy)
        else:
            texts = _read_rows(place, form, column, policy)
        yield from (text for text in texts if text and not text.isspace())
    except DAMAGED as error:
        bad = BadRowError(f"cannot be read from here on: {first_line(error)}")
        policy.reject(path, place.number + 1, bad)
    except OSError as error:
        if error.errno is None:  # of bz2, which names no error of its own
            bad = BadRowError(f"cannot be read from here on: {first_line(error)}")
            policy.reject(path, place.number + 1, bad)
            return
        raise UserError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None


def _read_json(place: Place, column: str, policy: Policy) -> Iterator[str]:
    with open_bytes(place.path) as handle:
        while True:
            try:
                # No name is kept here, so that a long line is gone before its text is made.
                text = _parse(_next_line(place, handle, policy), place, column, policy)
            except BadRowError as bad:
                policy.reject(place.path, place.number, bad)
                if isinstance(bad, _WholeFileError):
                    return
                continue
            if text is None:
                return
            yield text


def _next_line(place: Place, handle: BinaryIO, policy: Policy) -> bytes:
    """Read the next line, empty at the end; `BadRowError` gets over one that is too long."""
    line = handle.readline(policy.row_bytes + 1)
    place.number += bool(line)
    if len(line) <= policy.row_bytes:
        return line
    while line and not line.endswith(b"\n"):
        line = handle.readline(_REST)
    raise policy.too_long()


class _WholeFileError(BadRowError):
    """A file of which no row can be read."""


def _require_utf8(line: bytes, place: Place) -> None:
    """Raise `_WholeFileError` if the first line of a file is of another encoding or no text."""
    if place.number > 1:
        return
    for mark, name in _MARKS.items():
        if line.startswith(mark):
            raise _WholeFileError(
                f"the file is {name}, where UTF-8 is wanted",
                f"write it again (iconv -f {name} -t UTF-8)",
            )
    for mark, (name, ending) in _BINARY.items():
        if line.startswith(mark):
            raise _WholeFileError(
                f"the file is {name}, where text is wanted",
                f"give it the ending {ending}",
            )


def _parse(line: bytes, place: Place, column: str, policy: Policy) -> str | None:
    """Find the text in a line of JSON: "" in a blank one, None at the end of the file."""
    if not line:
        return None
    _require_utf8(line, place)
    line = line.removeprefix(codecs.BOM_UTF8)
    if len(line) < LONG or policy.reader:
        return policy.text_of(_record(line, column), column)
    long = LongLine(line)
    del line
    found = text_of(_record(long.short, column), column)
    try:
        return checked(long.text(found), column)
    except UnicodeDecodeError as error:
        raise no_utf8(error, error.object) from None
    except ValueError as error:
        raise BadRowError(f"no JSON: {first_line(error)}") from None


def _record(line: bytes, column: str) -> object:
    """Decode a line of JSON; a blank one is a row of blank text."""
    text = decoded(line).rstrip("\r\n")  # so that an end of line is no part of a cut-off string
    if not text or text.isspace():
        return {column: ""}
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
        raise BadRowError(f"no JSON: {first_line(error)}") from None
    if isinstance(record, list):
        raise BadRowError("a JSON array, where an object a line is wanted", _A_LINE)
    return record


def _is_a_record_a_line(path: Path) -> bool:
    """Tell whether the first line of a .json file is a whole object."""
    with open_bytes(path) as handle:
        line = handle.readline(_REST)
    try:
        return isinstance(_JSON.decode(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _read_rows(place: Place, form: str, column: str, policy: Policy) -> Iterator[str]:
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
            text = policy.text_of(row, column)
            if policy.is_too_long(text):
                raise policy.too_long()
        except BadRowError as bad:
            policy.reject(path, number, bad)
            continue
        yield text


def _read_text(place: Place, policy: Policy) -> Iterator[str]:
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


def _text_pieces(place: Place) -> Iterator[tuple[str, BadRowError | None]]:
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
