"""Files of multiple choice and of natural language inference, a JSON object a line, or Jack's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from btm.errors import UserError
from btm.readers import files
from btm.readers.setting import Answer, Example
from btm.system.json_files import Json

LABELS = ("entailment", "neutral", "contradiction")


def choices(folder: Path, split: str) -> list[Example]:
    """Read ``SPLIT.jsonl``: question, choices, answer (its number from 0), support and id if any.

    Empty where there is no such file; `UserError` with file and line for a bad question.
    """
    return _read(folder, split, _choice, needs_support=False)


def _choice(where: str, row: Json) -> Example:
    offered: Any = row.get("choices")
    number = row.get("answer")
    good = isinstance(offered, list) and all(isinstance(each, str) for each in offered)
    if not good or len(set(offered)) < max(2, len(offered)) or not all(map(str.strip, offered)):
        raise UserError(f"{where}: choices: wanted two texts or more that differ")
    if type(number) is not int or not 0 <= number < len(offered):
        raise UserError(
            f"{where}: answer: wanted the number of a choice, 0 to {len(offered) - 1}, found "
            f"{number!r}"
        )
    support = row.get("support") or ""
    setting = {
        "question": files.text_of(row, "question", where),
        "support": (str(support),) if support else (),
        "id": str(row.get("id") or where),
        "candidates": tuple(offered),
    }
    answers = [Answer(offered[number])]
    return files.made(where, setting, answers, needs_support=False)


def inference(folder: Path, split: str) -> list[Example]:
    """Read ``SPLIT.jsonl``: premise, hypothesis and label, or SNLI's sentence1, sentence2 and
    gold_label ("-" is left out); or ``SPLIT.json`` of Jack.

    The premise is the support, the hypothesis the question, the labels the candidates.
    """
    return _read(folder, split, _inference, needs_support=True)


def _inference(where: str, row: Json) -> Example | None:
    snli = "gold_label" in row
    premise, hypothesis, label = (
        ("sentence1", "sentence2", "gold_label") if snli else ("premise", "hypothesis", "label")
    )
    if snli and row[label] == "-":
        return None
    setting = {
        "question": files.text_of(row, hypothesis, where),
        "support": (files.text_of(row, premise, where),),
        "id": str(row.get("pairID") or row.get("id") or where),
        "candidates": LABELS,
    }
    answers = [Answer(files.text_of(row, label, where))]
    return files.made(where, setting, answers, needs_support=True)


def _read(
    folder: Path, split: str, of: Callable[[str, Json], Example | None], *, needs_support: bool
) -> list[Example]:
    """Read a split of Jack's, or of rows that `of` makes questions of; None is passed over."""
    file = files.find(folder, split, ".jsonl", ".json")
    if file is None:
        return []
    if file.suffix == ".json":
        text = files.content(file)
        return files.jack(file, text, files.whole(file, text), needs_support=needs_support)
    found = (of(where, row) for where, row in files.rows(file))
    return [example for example in found if example is not None]
