"""Rows of other people's files: which of their fields is the text, and what becomes of a bad one.

A row is a line of JSON, a row of a table, or a document of a plain text. With
``data.on_error=refuse`` the first one without usable text ends the command, which names the place,
the cause and the remedy; with ``skip`` it is left out, and counted.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from btm.config.data import DataConfig
from btm.data.slices import utf8_size
from btm.errors import UserError
from btm.system.json_files import Json

ROW_BYTES = DataConfig.row_bytes
_PLACES = 10  # bad rows whose place is kept
_SHOWN = 120  # characters of a cause, which may quote the file
_NAMES = 8  # fields that an error lists
_DEPTH = 3  # of the fields that are proposed
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# What the text is often called, the likeliest first.
_USUAL = ("text", "content", "body", "raw_content", "document", "article", "markdown", "code")


class BadRowError(Exception):
    """A row without usable text: why, and what might help."""

    def __init__(self, why: str, remedy: str = "mend it") -> None:
        super().__init__(why)
        # The cause may quote the file, or a library that does.
        line = "".join(char if char.isprintable() else " " for char in why)
        self.why = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
        self.remedy = remedy


class Doubled(dict[str, Any]):
    """A JSON object some of whose keys stand there twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = {name for name in names if names.count(name) > 1}


@dataclass
class Place:
    """Where in a file reading has come to: the number of the line or row that was read last."""

    path: Path
    number: int = 0


@dataclass
class Skipped:
    """The rows that were left out of a domain: how many, and where the first ones stood."""

    rows: int = 0
    places: list[str] = field(default_factory=list)  # "FOLDER/FILE:ROW: why"
    remedy: str = ""  # for the first one

    def add(self, place: str, bad: BadRowError, rows: int) -> None:
        """Count rows that begin at `place`."""
        self.remedy = self.remedy if self.rows else bad.remedy
        self.rows += rows
        if len(self.places) < _PLACES:
            self.places.append(f"{place}: {bad.why}")

    def to_json(self) -> Json:
        """Make the entry of meta.json."""
        return {"rows": self.rows, "places": self.places}

    def lines(self, domain: str) -> list[str]:
        """Say in a few lines what was left out of a domain; none if nothing was."""
        if not self.rows:
            return []
        what = f"{domain}: {_rows(self.rows)} left out (data.on_error=skip)"
        more = self.rows - len(self.places)
        return [what, *(f"  {each}" for each in self.places), *([f"  {more:,} more"] * (more > 0))]

    def all_of(self, domain: str) -> UserError:
        """Describe a domain of which every row was left out."""
        return UserError(
            f"{domain}: no usable text, {_rows(self.rows)} left out (data.on_error=skip); the "
            f"first is {self.places[0]}: {self.remedy}"
        )


class RowReader(Protocol):
    """Makes the text of a document of a row that is more than a text."""

    def written(self, record: object) -> str:
        """Return the document; `BadRowError` if the row is none."""


@dataclass(frozen=True)
class Policy:
    """How rows are read: what is done with bad ones, how long one may be, and by whom."""

    on_error: str = "refuse"
    row_bytes: int = ROW_BYTES
    skipped: Skipped = field(default_factory=Skipped)
    reader: RowReader | None = None  # None: a field of the row is the text

    @classmethod
    def of(cls, config: DataConfig, reader: RowReader | None = None) -> "Policy":
        """Make the policy that `config` asks for, with a count that begins at 0."""
        return cls(config.on_error, config.row_bytes, reader=reader)

    def again(self) -> "Policy":
        """Make the same policy for another pass over the rows, with a count of its own."""
        return replace(self, skipped=Skipped())

    def text_of(self, record: object, column: str) -> str:
        """Find the document in a row; `BadRowError` if it has none that can be used."""
        if self.reader is None or record == {column: ""}:  # a blank line
            return text_of(record, column)
        return self.reader.written(record)

    def reject(self, path: Path, number: int, bad: BadRowError, rows: int = 1) -> None:
        """Count a bad row, or raise `UserError`.

        `number` is that of the row or the line, 0 for a whole file; `rows` counts those that are
        lost with it.
        """
        at = f":{number}" if number else ""
        if self.on_error == "refuse":
            such = "such rows" if number else "it"
            raise UserError(
                f"{path}{at}: {bad.why}: {bad.remedy}, or leave {such} out with data.on_error=skip"
            )
        self.skipped.add(f"{path.parent.name}/{path.name}{at}", bad, rows)

    def is_too_long(self, value: str | bytes) -> bool:
        """Tell whether a text has more than `row_bytes` bytes."""
        size = len(value)
        if isinstance(value, str) and size <= self.row_bytes < 4 * size:
            size = utf8_size(value)
        return size > self.row_bytes

    def too_long(self) -> BadRowError:
        """Describe a row that is longer than `row_bytes`."""
        return BadRowError(
            f"longer than {self.row_bytes:,} bytes", "raise the limit: data.row_bytes=BYTES"
        )


def text_of(record: object, column: str) -> str:
    """Find the text of a row; `BadRowError` if it has none that can be used.

    `column` is a field, or fields of fields joined by dots; a field whose own name has the dot
    comes first.
    """
    found = record.get(column, _NONE) if isinstance(record, dict) else _NONE
    if found is _NONE:
        found = _nested(record, column)
    elif isinstance(record, Doubled) and column in record.twice:
        raise BadRowError(f"{column!r} stands there twice")
    return checked(found, column)


def checked(value: object, column: str) -> str:
    """Return the value of a field as text; `BadRowError` if it is none."""
    if isinstance(value, bytes):  # a column of some tables that holds UTF-8
        value = decoded(value)
    if not isinstance(value, str):
        inner = _texts(value) if isinstance(value, dict) else []
        names = _proposal([f"{column}.{name}" for name in inner], column)
        raise BadRowError(
            f"{column!r} is {_kind(value)}, no text" + (f"; it has {_listed(inner)}" * bool(inner)),
            names or "mend it",
        )
    # JSON can spell half of a surrogate pair, but no file can hold it and no tokenizer takes it.
    if not value.isascii() and _LONE_SURROGATE.search(value):
        raise BadRowError(f"{column!r} holds a lone surrogate, which is no Unicode text")
    return value


def decoded(data: bytes) -> str:
    """Decode UTF-8; `BadRowError` names the first byte that is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise no_utf8(error, data) from None


def no_utf8(error: UnicodeDecodeError, data: bytes) -> BadRowError:
    """Describe bytes that are no UTF-8."""
    return BadRowError(
        f"no UTF-8: {error.reason} (0x{data[error.start]:02x} at byte {error.start + 1})",
        "write it as UTF-8 (iconv -f LATIN1 -t UTF-8, if it is Latin-1)",
    )


def missing(column: str, names: Mapping[str, Any] | object) -> BadRowError:
    """Describe a row or a table without the field `column`, and propose another.

    `names` is the row, or any mapping of the same fields.
    """
    if not isinstance(names, Mapping):
        return BadRowError(f"is {_kind(names)}, where an object with the field {column!r} belongs")
    texts = _texts(names)
    have = _listed(texts) or _listed(list(names))
    what = f"has {have}" if texts else f"has {have}, none of it text" if have else "has no field"
    return BadRowError(
        f"no field {column!r}; {what}", _proposal(texts, column, names) or "give it one"
    )


_NONE = object()  # in place of a field that is not there


def _nested(record: object, column: str) -> object:
    """Find the value at a path of fields joined by dots; `BadRowError` if there is none."""
    found = _walk(record, column)
    if found is _NONE:
        raise missing(column, record)
    return found


def _walk(node: object, path: str) -> object:
    """Follow a path of fields from `node`; `_NONE` if it leads nowhere."""
    if not isinstance(node, dict):
        return _NONE
    if path in node:
        if isinstance(node, Doubled) and path in node.twice:
            raise BadRowError(f"{path!r} stands there twice")
        return node[path]
    head, dot, rest = path.partition(".")
    while dot:
        if head in node and (found := _walk(node[head], rest)) is not _NONE:
            return found
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return _NONE


def _texts(node: Mapping[Any, Any]) -> list[str]:
    """List the paths of fields that hold text, those of fields of fields with dots."""
    return list(dict.fromkeys(_paths(node, _DEPTH)))


def _paths(node: Mapping[Any, Any], depth: int) -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, str):
            yield str(name)
        elif isinstance(value, Mapping) and depth > 1:
            yield from (f"{name}.{inner}" for inner in _paths(value, depth - 1))


def _proposal(paths: list[str], column: str, row: Mapping[Any, Any] | None = None) -> str:
    """Propose the likeliest of some fields as data.text_column; "" if there are none."""
    if not paths:
        return ""
    usual = [column.lower(), *_USUAL]

    def rank(path: str) -> tuple[int, int]:
        name = path.rpartition(".")[2].lower()
        value = _walk(dict(row), path) if row is not None else ""
        length = len(value) if isinstance(value, str) else 0
        return (usual.index(name) if name in usual else len(usual), -length)

    return shlex.quote(f"data.text_column={min(paths, key=rank)}")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(str(name)[:40] for name in names[:_NAMES]) + more


def _kind(value: object) -> str:
    """Name the kind of a value as JSON does."""
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", str: "a text"}
    kinds |= {list: "a list", dict: "an object"}
    return next((kinds[kind] for kind in kinds if isinstance(value, kind)), type(value).__name__)
