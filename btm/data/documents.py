"""Documents on disk: a folder of domains in any of several layouts and formats.

    ROOT/<domain>/{train,valid,test}.jsonl    its own splits (.jsonl .gz .zst, .parquet, .txt)
    ROOT/<domain>/*.txt                       pooled, to be split (the same formats)
    ROOT/<domain>.txt                         one file is a domain (the same formats)
    ROOT/<domain>/dict.txt, train.bin …       a data-bin of fairseq (btm/data/binarised.py)

`find` lists the sources without opening a file; `read` streams the documents of one file in bounded
memory. Every fault of a source is a `UserError` of one line that names the file and the line.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from btm.config.checks import check_name
from btm.config.choices import SPLITS
from btm.data.streams import CORRUPT, open_bytes
from btm.errors import UserError
from btm.fairseq import databin
from btm.system import lfs
from btm.system.extras import install

FORMATS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
POOL = ""  # the key of files that are still to be split
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

    @property
    def pooled(self) -> bool:
        """Whether btm decides which document goes to which split."""
        return POOL in self.files

    @property
    def binarised(self) -> bool:
        """Whether the files are fairseq's, of token ids rather than text."""
        return any(path.suffix == ".idx" for _, path in self.listing())

    @property
    def split_by(self) -> str:
        """How a pool is split (btm/data/pools.py); empty for a domain with splits of its own."""
        if not self.pooled:
            return ""
        if not any(is_text(path) for path in self.files[POOL]):
            return BY_DOCUMENT
        return BY_FILE if len(self.files[POOL]) > 1 else BY_PLACE

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


def find(root: Path, made_by: str = "") -> list[Source]:
    """Find the domains below `root`, by name; `UserError` if there are none or one is ambiguous.

    `made_by` is the command that builds `root`, if there is one; the error suggests it.
    """
    if not root.is_dir():
        build = f"build it: {made_by} --out {root}"
        remedy = build if made_by else "data.root must be a folder of domains"
        raise UserError(f"no folder {root}; {remedy}")
    if databin.is_data_bin(root):
        raise UserError(
            f"{root} is one data-bin, and so one domain; data.root must be the folder above it"
        )
    sources: dict[str, Source] = {}
    for entry in sorted(root.iterdir()):
        name = entry.name if entry.is_dir() else _stem(entry)
        if entry.name.startswith(".") or name is None:
            continue
        check_name(name, f"domain of {entry}")
        if name in SPLITS and not entry.is_dir():
            raise UserError(f"{entry}: {root} is one domain; data.root must be the folder above it")
        if name in sources:
            raise UserError(
                f"{root}: two sources for the domain {name!r}, one is {entry.name}; keep one"
            )
        sources[name] = _in_folder(entry) if entry.is_dir() else Source(name, {POOL: (entry,)})
    if not sources:
        raise UserError(f"no domain in {root}; wanted <domain>/ or <domain>{{{','.join(FORMATS)}}}")
    kinds = {source.binarised: name for name, source in sources.items()}
    if len(kinds) > 1:
        raise UserError(
            f"{root}: {kinds[True]} is a data-bin of fairseq and {kinds[False]} is text; "
            "keep one kind"
        )
    return [sources[name] for name in sorted(sources)]


def find_one(path: Path, domain: str) -> Source:
    """Make a domain of one file, or of a folder of files, under any name."""
    if path.is_dir():
        return replace(_in_folder(path), domain=domain)
    if not path.exists():
        raise UserError(f"no file or folder {path}; wanted the text of the domain {domain!r}")
    if _stem(path) is None:
        raise UserError(f"{path}: wanted a folder, or a file that ends in {', '.join(FORMATS)}")
    return Source(domain, {POOL: (path,)})


def read(path: Path, column: str) -> Iterator[str]:
    """Yield the documents of one file that are not blank.

    `column` names the text in JSON and parquet.
    """
    lfs.refuse(path)
    try:
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty; fill or remove it")
        if path.name.endswith(".parquet"):
            texts = _read_parquet(path, column)
        elif is_text(path):
            texts = _read_text(path)
        else:
            texts = _read_json(path, column)
        yield from (text for text in texts if text and not text.isspace())
    except CORRUPT as error:
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from None


def is_text(path: Path) -> bool:
    """Tell whether a file is plain text, which is cut into documents."""
    return path.name.endswith(".txt")


def _stem(path: Path) -> str | None:
    """Return the file's name without its format, or None if the format is unknown."""
    endings = [ending for ending in FORMATS if path.name.endswith(ending)]
    return path.name.removesuffix(max(endings, key=len)) if endings else None


def _in_folder(folder: Path) -> Source:
    if databin.is_data_bin(folder):
        return Source(folder.name, databin.files_of(folder))
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [(stem, path) for path in visible if (stem := _stem(path)) is not None]
    if not files:
        raise UserError(f"{folder}: no document; wanted files that end in {', '.join(FORMATS)}")
    if not any(stem in SPLITS for stem, _ in files):
        return Source(folder.name, {POOL: tuple(path for _, path in files)})
    splits: dict[str, tuple[Path, ...]] = {}
    for stem, path in files:
        if stem not in SPLITS:
            raise UserError(
                f"{path}: is neither train, valid nor test, which stand beside it; move it away"
            )
        if stem in splits:
            raise UserError(f"{path}: {splits[stem][0].name} is the {stem} split already; keep one")
        splits[stem] = (path,)
    for split in SPLITS:
        if split not in splits:
            have = ", ".join(path.name for _, path in files)
            raise UserError(
                f"{folder}: no {split} split beside {have}; add it, or rename those to be split"
            )
    return Source(folder.name, {split: splits[split] for split in SPLITS})


def _read_json(path: Path, column: str) -> Iterator[str]:
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


def _read_text(path: Path) -> Iterator[str]:
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


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: no UTF-8: {error.reason} (byte {error.start + 1})"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
