"""Rows of JSON lines as examples: what a row may be, and the text that stands for it.

    {"prompt": "2 + 2 = ", "completion": "4"}
    {"prompt": "2 + 2 = ", "completions": [{"text": "4", "weight": 0.9}, "four"]}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

Any of them may have a "weight", which those of completions are multiplied by; other fields are not
read. A prompt and its completion are joined as they stand.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from btm.data.prompted.template import Segment, segments
from btm.data.rows import BadRowError, checked
from btm.data.slices import utf8_size

_ROLES = ("system", "user", "assistant")
_FORMS = '{"prompt": …, "completion": …}, {"prompt": …, "completions": […]} or {"messages": […]}'
_ANSWERS = ("completion", "completions")


@dataclass(frozen=True)
class Example:
    """A text in segments, answers marked, and its weight in the loss."""

    segments: tuple[Segment, ...]
    weight: float = 1.0
    is_chat: bool = False  # special tokens in its text are meant, for a template wrote them

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.segments)

    def answer_bytes(self) -> int:
        """Count the bytes of its answers in UTF-8."""
        return sum(utf8_size(text) for text, is_answer in self.segments if is_answer)


def examples_of(written: str) -> list[Example]:
    """Read the examples of a row from the text that `Reader.written` made of it."""
    chat, rows = json.loads(written)
    return [
        Example(tuple((text, bool(flag)) for text, flag in found), weight, bool(chat))
        for weight, found in rows
    ]


def plain(written: str) -> str:
    """Give the text of a row's examples, as a tokenizer is trained on it: the prompt once."""
    first, *others = examples_of(written)
    return first.text + "".join(each.segments[-1][0] for each in others)


@dataclass(frozen=True)
class Reader:
    """Makes examples of rows; `tokenizer` is that of transformers whose template writes chats."""

    tokenizer: Any

    def written(self, record: object) -> str:
        """Check a row and write its examples as canonical JSON; `BadRowError` if it is none."""
        if not isinstance(record, Mapping):
            raise BadRowError(f"no object, where {_FORMS} is wanted")
        if ("messages" in record) == ("prompt" in record):
            has = "both 'messages' and 'prompt'" if "prompt" in record else _fields(record)
            raise BadRowError(f"has {has}", f"wanted {_FORMS}")
        weight = _weight(record.get("weight", 1), "weight")
        is_chat = "messages" in record
        if is_chat:
            found = [(weight, segments(self._messages(record["messages"]), self.tokenizer))]
        else:
            prompt = _text(record["prompt"], "prompt")
            found = [
                (weight * share, [(prompt, False), (answer, True)])
                for answer, share in _answers(record)
            ]
        rows = [[w, [[text, int(flag)] for text, flag in parts]] for w, parts in found]
        return json.dumps([int(is_chat), rows], ensure_ascii=False, separators=(",", ":"))

    def _messages(self, value: object) -> list[dict[str, str]]:
        """Check a conversation: its roles in order, its texts, and that it ends with an answer."""
        if not isinstance(value, list) or not value:
            raise BadRowError(f"'messages' is {'empty' if value == [] else 'no list'}")
        found = []
        for n, message in enumerate(value, 1):
            if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
                role = message.get("role") if isinstance(message, Mapping) else None
                raise BadRowError(f"message {n} has the role {role!r}, not {', '.join(_ROLES)}")
            content = _text(message.get("content"), f"content of message {n}")
            for token in self._specials:
                if token in content:
                    raise BadRowError(
                        f"message {n} spells out {token!r}, a special token that the chat "
                        "template alone may write"
                    )
            found.append({"role": str(message["role"]), "content": content})
        _require_order([message["role"] for message in found])
        return found

    @cached_property
    def _specials(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        named = {token.content for token in added if token.special}
        return tuple(sorted(named | set(self.tokenizer.all_special_tokens)))


def _require_order(roles: list[str]) -> None:
    """Raise `BadRowError` unless user and assistant take turns and the assistant is last."""
    first = 1 if roles[0] == "system" else 0
    for n, role in enumerate(roles[first:]):
        wanted = _ROLES[1 + n % 2]
        if role != wanted:
            raise BadRowError(
                f"message {first + n + 1} is of the role {role!r}, where {wanted!r} is due "
                "(a system message, if any, comes first; user and assistant take turns)"
            )
    if roles[-1] != "assistant":
        raise BadRowError(f"the last message is of the role {roles[-1]!r}: there is no answer")


def _answers(record: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """List the completions of a prompt and their weights."""
    given = [name for name in _ANSWERS if name in record]
    if len(given) != 1:
        has = "both" if given else "none"
        raise BadRowError(f"no answer: wanted 'completion' or 'completions', found {has}")
    if given == ["completion"]:
        return [(_text(record["completion"], "completion"), 1.0)]
    several = record["completions"]
    if not isinstance(several, list) or not several:
        raise BadRowError("no answer: 'completions' is no list, or empty")
    found = []
    for n, each in enumerate(several, 1):
        name = f"completion {n}"
        if isinstance(each, Mapping):
            share = _weight(each.get("weight", 1), f"weight of {name}")
            found.append((_text(each.get("text"), f"text of {name}"), share))
        else:
            found.append((_text(each, name), 1.0))
    return found


def _text(value: object, name: str) -> str:
    """Return a text that is not blank; `BadRowError` otherwise."""
    text = checked(value, name)
    if not text or text.isspace():
        raise BadRowError(f"{name!r} is blank")
    return text


def _weight(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRowError(f"{name!r} is no number")
    if not (math.isfinite(value) and 0 < value <= 1e6):
        raise BadRowError(f"{name!r} is {value:g}, where a number above 0 is wanted")
    return float(value)


def _fields(record: Mapping[str, Any]) -> str:
    return f"the fields {', '.join(map(str, list(record)[:8]))}" if record else "no field"
