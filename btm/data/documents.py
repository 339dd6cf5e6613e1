"""Documents on disk: the files of a domain, and the documents of a file.

btm/data/domains.py finds the files; `read` streams the documents of one in bounded memory. Every
fault of a source is a `UserError` of one line that names the file and the line.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from btm.config.choices import SPLITS
from btm.data.columns import read_arrow, read_table
from btm.data.formats import ARROW, JSON, PARQUET, TABLE, TEXT, format_of, is_text
from btm.data.json_stream import records
from btm.data.layout import POOL
from btm.data.streams import CORRUPT, open_bytes
from btm.errors import UserError
from btm.system.extras import install

# How a pool is split: by record, by whole text files, or within the only text file.
BY_DOCUMENT, BY_FILE, BY_PLACE = "document", "file", "place"
DOCUMENT_CHARS = 4_000  # after these a plain text is cut at the next blank line
LONGEST_PARAGRAPH = 64_000  # characters after which it is cut even without one
_LONGEST_LINE = 1 << 26  # bytes of one JSON line; more is no document but an accident
_PIECE = 1 << 16  # bytes of a plain text that are read at once
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """One domain's files, by split; a pooled domain has all of its files under `POOL`."""

    domain: str
    files: dict[str, tuple[Path, ...]]
    home: Path | None = None  # the folder of a domain that is one

    @property
    def pooled(self) -> bool:
        """Whether no file is named after a split."""
        return POOL in self.files

    @property
    def drawn(self) -> tuple[str, ...]:
        """The splits that no file is named after: btm draws them from the pool, or from train."""
        return tuple(split for split in SPLITS[1:] if split not in self.files)

    @property
    def binarised(self) -> bool:
        """Whether the files are fairseq's, of token ids rather than text."""
        return any(path.suffix == ".idx" for _, path in self.listing())

    @property
    def split_by(self) -> str:
        """How splits are drawn (btm/data/pools.py); empty for a domain with splits of its own."""
        if not self.drawn:
            return ""
        files = self.files[POOL if self.pooled else SPLITS[0]]
        if not any(is_text(path) for path in files):
            return BY_DOCUMENT
        return BY_FILE if len(files) > 1 else BY_PLACE

    def name_of(self, path: Path) -> str:
        """Name a file by its path in the domain's folder."""
        return path.relative_to(self.home).as_posix() if self.home else path.name

    def listing(self) -> list[tuple[str, Path]]:
        """List (split, file) in the order in which documents are read."""
        return [(split, path) for split, paths in self.files.items() for path in paths]

    def text_files(self) -> list[tuple[str, Path]]:
        """List (split, file) as `listing` does; `UserError` if they hold no text."""
        if self.binarised:
            raise UserError(
                f"{self.domain}: token ids of fairseq, where text is wanted; give the text itself"
            )
        return self.listing()

    def documents(self, column: str) -> Iterator[tuple[str, str]]:
        """Yield (split, text) of every document that is not blank, always in the same order."""
        for split, path in self.text_files():
            for text in read(path, column):
                yield split, text


def read(path: Path, column: str) -> Iterator[str]:
    """Yield the documents of one file that are not blank.

    `column` names the text in JSON and tables.
    """
    try:
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty; fill or remove it")
        texts = _READERS.get(format_of(path) or TEXT, _read_lines)(path, column)
        yield from (text for text in texts if text and not text.isspace())
    except CORRUPT as error:
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from None


def _read_lines(path: Path, column: str) -> Iterator[str]:
    with open_bytes(path) as handle:
        for number, line in enumerate(_whole_lines(path, handle), 1):
            text = _decode(path, number, line)
            if not text or text.isspace():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: no JSON: {_first_line(error)}") from None
            yield _text_of(path, number, record, column)


def _whole_lines(path: Path, handle: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := handle.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise UserError(
                f"{path}:{number}: longer than {_LONGEST_LINE:,} bytes; wanted a document a line"
            )
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _text_of(path: Path, number: int, record: object, column: str) -> str:
    """Return the record's text; `UserError` names the line of a bad record."""
    if not isinstance(record, dict) or column not in record:
        have = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{path}:{number}: no {column!r}; found {have or 'nothing'} (set data.text_column)"
        )
    text = record[column]
    if not isinstance(text, str):
        raise UserError(f"{path}:{number}: {column!r} is no string but {type(text).__name__}")
    # JSON can spell half of a surrogate pair, but no file can hold it and no tokenizer takes it.
    if not text.isascii() and _LONE_SURROGATE.search(text):
        raise UserError(
            f"{path}:{number}: {column!r} holds a lone surrogate, which is no Unicode text"
        )
    return text


def _read_text(path: Path, column: str) -> Iterator[str]:
    """Yield documents of about `DOCUMENT_CHARS`; joined they are the file again."""
    parts: list[str] = []
    chars = 0
    for piece in _text_pieces(path):
        parts.append(piece)
        chars += len(piece)
        if chars >= LONGEST_PARAGRAPH or (chars >= DOCUMENT_CHARS and piece.isspace()):
            yield "".join(parts)
            parts, chars = [], 0
    yield "".join(parts)


def _text_pieces(path: Path) -> Iterator[str]:
    """Yield the file's lines, those that are longer than `_PIECE` bytes in several pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    number = 1
    with open_bytes(path) as handle:
        line = handle.readline(_PIECE).removeprefix(codecs.BOM_UTF8)
        while line:
            following = handle.readline(_PIECE)
            try:
                yield decoder.decode(line, final=not following or line.endswith(b"\n"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: no UTF-8: {error.reason}") from None
            number += line.endswith(b"\n")
            line = following


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: parquet needs pyarrow; run: {install('parquet')}") from None
    with parquet.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            have = ", ".join(map(repr, file.schema_arrow.names))
            raise UserError(f"{path}: no column {column!r}; found {have} (set data.text_column)")
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield _text_of(path, row, {column: value}, column)


def _read_records(path: Path, column: str) -> Iterator[str]:
    """Yield the documents of a .json file, of a table, or of Arrow."""
    form = format_of(path)
    if form == JSON:
        with open_bytes(path) as handle:
            for line, record in records(path, handle, _LONGEST_LINE):
                yield _text_of(path, line, record, column)
        return
    rows = read_arrow(path, column) if form == ARROW else read_table(path, column, _LONGEST_LINE)
    for number, row in rows:
        yield _text_of(path, number, row, column)


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: no UTF-8: {error.reason} (byte {error.start + 1})"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_READERS = {
    TEXT: _read_text,
    PARQUET: _read_parquet,
    JSON: _read_records,
    TABLE: _read_records,
    ARROW: _read_records,
}
