"""Questions in SQuAD's format, 1.1 or 2.0, or that of Jack the Reader; EM and F1 as officially."""

import re
import string
from collections import Counter
from pathlib import Path

from btm.errors import UserError
from btm.readers import files
from btm.readers.setting import Answer, Example
from btm.system.json_files import Json

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(folder: Path, split: str) -> list[Example]:
    """Read ``SPLIT.json``; empty where there is no such file.

    `UserError` with file and line for an empty support, and an answer that does not stand there.
    """
    file = files.find(folder, split, ".json")
    if file is None:
        return []
    text = files.content(file)
    value = files.whole(file, text)
    if "instances" in value:
        return files.jack(file, text, value, needs_support=True)
    places = files.Lines(file, text)
    try:
        paragraphs = [each for article in value["data"] for each in article["paragraphs"]]
        return [
            _example(places, paragraph["context"], asked)
            for paragraph in paragraphs
            for asked in paragraph["qas"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not SQuAD's format ({type(error).__name__}: {error})") from None


def _example(places: files.Lines, context: str, asked: Json) -> Example:
    where = places.where(asked["question"])
    answers = []
    for each in () if asked.get("is_impossible") else asked["answers"]:
        text, start = str(each["text"]), int(each["answer_start"])
        answers.append(Answer(text, (start, start + len(text))))
    setting = {"question": asked["question"], "support": (context,), "id": str(asked["id"])}
    return files.made(where, setting, answers, needs_support=True)


def normalised(text: str) -> str:
    """Lower the case; leave out punctuation, articles and blanks, as SQuAD's evaluate-v2.0 does."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact(found: str, wanted: str) -> float:
    """1 if two answers are equal once normalised."""
    return float(normalised(found) == normalised(wanted))


def f1(found: str, wanted: str) -> float:
    """The harmonic mean of precision and recall of words; of no answer, 1 if both are none."""
    own, right = normalised(found).split(), normalised(wanted).split()
    if not own or not right:
        return float(own == right)
    same = sum((Counter(own) & Counter(right)).values())
    return 2 * same / (len(own) + len(right))


def scores(found: str, example: Example) -> tuple[float, float]:
    """Exact match and F1 of an answer, against whichever right answer it is nearest to."""
    right = [answer.text for answer in example.answers] or [""]
    return max(exact(found, each) for each in right), max(f1(found, each) for each in right)
