"""Files of questions as others write them: JSON lines, and the format of Jack the Reader.

A split has a file of its name; `dev` is another name of valid. A mistake names file and line.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from btm.errors import UserError
from btm.readers.setting import Answer, Example, QASetting
from btm.system.json_files import Json, parse_json, read_regular

_LARGEST = 1 << 30  # bytes of a file of questions
_ALSO = {"valid": ("valid", "dev")}


def find(folder: Path, split: str, *endings: str) -> Path | None:
    """Find the file of a split; None if there is none."""
    names = (f"{name}{ending}" for name in _ALSO.get(split, (split,)) for ending in endings)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def content(file: Path) -> str:
    """Read a file of text in UTF-8."""
    try:
        return read_regular(file, _LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason} at byte {error.start:,})") from None


def rows(file: Path) -> Iterator[tuple[str, Json]]:
    """Yield the place (file:line) and the object of each line that is not blank."""
    for number, line in enumerate(content(file).split("\n"), 1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                value = parse_json(line.encode())
            except ValueError as error:
                raise UserError(f"{where}: not JSON ({error})") from None
            if not isinstance(value, dict):
                raise UserError(f"{where}: wanted a JSON object, found {type(value).__name__}")
            yield where, value


def whole(file: Path, text: str) -> Json:
    """Parse a file that is one JSON object."""
    try:
        value = parse_json(text.encode())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not JSON ({error.msg})") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}:1: wanted a JSON object, found {type(value).__name__}")
    return value


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """Return the text under a key; `UserError` if it is none or empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None else repr(value)[:60]
        raise UserError(f"{where}: {key}: wanted some text, found {found}")
    return value


def made(
    where: str, setting: Mapping[str, Any], answers: Sequence[Answer] = (), *, needs_support: bool
) -> Example:
    """Make an example; `UserError` with its place for a bad question, or an answer elsewhere."""
    try:
        asked = QASetting(**setting)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if needs_support and not any(text.strip() for text in asked.support):
        raise UserError(f"{where}: the support of question {asked.id!r} is empty: wanted some text")
    for answer in answers:
        if answer.span is not None:
            _require_in_support(where, asked, answer)
        elif asked.candidates and answer.text not in asked.candidates:
            raise UserError(
                f"{where}: the answer {answer.text[:60]!r} is none of the candidates of question "
                f"{asked.id!r}"
            )
    return Example(asked, tuple(answers))


def _require_in_support(where: str, asked: QASetting, answer: Answer) -> None:
    begin, end = answer.span or (0, 0)
    document = asked.support[answer.document] if answer.document < len(asked.support) else ""
    found = document[begin:end] if begin >= 0 else ""
    if not answer.text.strip() or found.strip() != answer.text.strip():
        raise UserError(
            f"{where}: the answer {answer.text[:60]!r} of question {asked.id!r} does not stand in "
            f"its support at {begin}: found {found[:60]!r}"
        )


class Lines:
    """The lines of a JSON file by what stands in them, so that a mistake names its line."""

    def __init__(self, file: Path, text: str) -> None:
        self._file, self._text, self._at = file, text, 0

    def where(self, value: str) -> str:
        """Name the line of the next place where a string stands, as JSON writes it."""
        written = (json.dumps(value, ensure_ascii=ascii) for ascii in (False, True))
        at = max(self._text.find(each, self._at) for each in written)
        if at >= 0:
            self._at = at + 1
        return f"{self._file}:{self._text.count(chr(10), 0, max(at, 0)) + 1}"


def jack(file: Path, text: str, value: Json, *, needs_support: bool) -> list[Example]:
    """Read the format of Jack the Reader: instances with support, questions and answers."""
    places = Lines(file, text)
    common = _texts((value.get("globals") or {}).get("candidates"))
    found = []
    try:
        for instance in value["instances"]:
            support = tuple(_texts(instance.get("support")))
            for number, asked in enumerate(instance["questions"]):
                question = asked["question"]
                if isinstance(question, str):
                    question = {"text": question}
                where = places.where(question["text"])
                name = str(question.get("id") or instance.get("id") or number)
                candidates = tuple(_texts(question.get("candidates")) or common)
                setting = {
                    "question": question["text"], "support": support, "id": name,
                    "candidates": candidates,
                }  # fmt: skip
                answers = [_jack_answer(each) for each in asked.get("answers", ())]
                found.append(made(where, setting, answers, needs_support=needs_support))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{file}: not the format of Jack the Reader ({type(error).__name__}: {error})"
        ) from None
    return found


def _texts(values: Any) -> list[str]:
    return [each if isinstance(each, str) else str(each["text"]) for each in values or ()]


def _jack_answer(value: Json) -> Answer:
    span = value.get("span")
    place = (int(span[0]), int(span[1])) if span else None
    return Answer(str(value["text"]), place, int(value.get("doc_idx", 0)))
