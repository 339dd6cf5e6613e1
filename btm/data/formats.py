"""The formats of text files, told by their endings in either case: `law.JSONL.gz` is lines of JSON.

    .txt .text                        plain text, which is cut into documents
    .jsonl .ndjson .jsonlines         a JSON object a line
    .json                             an array of objects, one object, or objects one after another
    .csv .tsv                         a table with a header
    .parquet .arrow .feather          a table of pyarrow's

All but the last may be compressed: .gz .bz2 .xz .zst.
"""

import re
from collections.abc import Iterable
from pathlib import PurePath

TEXT, LINES, JSON, TABLE, PARQUET, ARROW = "text", "lines", "json", "table", "parquet", "arrow"
_FORMATS = {
    ".txt": TEXT,
    ".text": TEXT,
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".jsonlines": LINES,
    ".json": JSON,
    ".csv": TABLE,
    ".tsv": TABLE,
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
}
NO_ENDING = "none"  # in place of an ending, for files that have none
# Others are a part of a sentence, or a number.
_ENDING = re.compile(r"(?=.*[A-Za-z])[\w+-]{1,16}", re.ASCII)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
OF_PYARROW = (PARQUET, ARROW)
WANTED = f"{', '.join(_FORMATS)} (those of text, JSON and tables also {', '.join(COMPRESSED[:4])})"


def format_of(path: PurePath, endings: Iterable[str] = ()) -> str | None:
    """Tell the format of a file by its name; None if it has none that is read.

    `endings` are further ones of plain text, as ".md", or `NO_ENDING`.
    """
    _, ending, compression = _parts(path.name)
    found = _FORMATS.get(ending)
    if found in OF_PYARROW and compression:
        return None
    return TEXT if (ending or NO_ENDING) in {each.lower() for each in endings} else found


def is_text(path: PurePath) -> bool:
    """Tell whether a file that is read is plain text: it is whatever has no structure."""
    return format_of(path) in (None, TEXT)


def packed(path: PurePath) -> bool:
    """Tell whether a file holds more bytes of text than it has."""
    return path.suffix.lower() in (*COMPRESSED, ".parquet")


def stem_of(path: PurePath) -> str:
    """Give the name of a file without its format and its compression."""
    return _parts(path.name)[0]


def inner_ending(path: PurePath) -> str:
    """Give the ending before that of a compression, in small letters."""
    return _parts(path.name)[1]


def compression_of(path: PurePath) -> str:
    """Give the ending of a compression that is read, in small letters; empty if there is none."""
    return _parts(path.name)[2]


def _parts(name: str) -> tuple[str, str, str]:
    """Split a name into its stem and its endings; those that it lacks are empty."""
    bare, last = _without_ending(name)
    compression = last.lower() if last.lower() in COMPRESSED else ""
    stem, ending = _without_ending(bare) if compression else (bare, last)
    return stem, ending.lower(), compression


def _without_ending(name: str) -> tuple[str, str]:
    stem, dot, ending = name.rpartition(".")
    return (stem, dot + ending) if stem and _ENDING.fullmatch(ending) else (name, "")
