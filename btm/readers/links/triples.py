"""Triples from files: subject, relation, object, with tabs between; a line a triple."""

from collections.abc import Iterator
from pathlib import Path

from btm.errors import UserError
from btm.readers.setting import Answer, Example, QASetting

ASKED = "?"
Triple = tuple[str, str, str]


def read(folder: Path, split: str) -> list[Example]:
    """Read the triples of a split as questions, two a triple: ``s p ?`` and ``? p o``.

    Empty where there is no such file; `UserError` with file and line for one that is no triple.
    """
    found = []
    for number, (s, p, o) in triples(folder, split):
        where = f"{split}.txt:{number}"
        found.append(Example(QASetting(f"{s}\t{p}\t{ASKED}", id=where), (Answer(o),)))
        found.append(Example(QASetting(f"{ASKED}\t{p}\t{o}", id=where), (Answer(s),)))
    return found


def triples(folder: Path, split: str) -> Iterator[tuple[int, Triple]]:
    """Yield the number of each line and its triple."""
    file = folder / f"{split}.txt"
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                parts = tuple(part.strip() for part in line.rstrip("\r\n").split("\t"))
                if len(parts) != 3 or not all(parts) or ASKED in parts:
                    raise UserError(
                        f"{file}:{number}: {len(parts)} fields; wanted subject, relation and "
                        "object, with tabs between"
                    )
                yield number, (parts[0], parts[1], parts[2])
        except UnicodeDecodeError:
            raise UserError(f"{file}: not UTF-8") from None


def parse(setting: QASetting) -> Triple:
    """Split a question into subject, relation and object, one of which may be ``?``."""
    text = setting.question
    parts = [part.strip() for part in text.split("\t")] if "\t" in text else text.split()
    if len(parts) != 3 or not all(parts) or parts[1] == ASKED or parts[0] == parts[2] == ASKED:
        raise UserError(
            f"{setting.id or 'the question'}: {text[:100]!r} asks for no link: wanted "
            "'subject relation ?', '? relation object', or all three; with tabs between where a "
            "name has blanks"
        )
    return parts[0], parts[1], parts[2]
