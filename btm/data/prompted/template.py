"""Conversations as a chat template writes them, cut where answers begin and end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from btm.data.rows import BadRowError
from btm.errors import UserError, first_line

DEFAULT = Path(__file__).parent / "chat_template.jinja"  # of tokenizers that have none
Segment = tuple[str, bool]  # a text, and whether it is an answer


def read_template(file: Path) -> str:
    """Read a chat template; `UserError` if there is none, or jinja does not understand it."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        content = file.read_text(encoding="utf-8")
        _compile_jinja_template(content)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"data.chat_template={file}: cannot be read: {why}") from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        at = f":{line}" if line else ""
        raise UserError(
            f"data.chat_template={file}{at}: no template: {first_line(error)}"
        ) from None
    return content


def segments(messages: Sequence[dict[str, str]], tokenizer: Any) -> list[Segment]:
    """Write a conversation by the tokenizer's template, cut around each answer of the assistant.

    What comes before an answer is exactly what a model is given to answer. transformers runs
    templates in jinja's immutable sandbox. `BadRowError` if the template raises, or writes the
    beginning of a conversation otherwise once more follows.
    """
    done, found = "", []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _written(messages[:i], tokenizer, asks=True)
        until = _written(messages[: i + 1], tokenizer, asks=False)
        if not (before.startswith(done) and until.startswith(before)):
            raise BadRowError(
                f"the chat template writes what stands before message {i + 1} otherwise once that "
                "follows, so there is no telling where the answer begins",
                "give another data.chat_template=FILE",
            )
        found += [(before[len(done) :], False), (until[len(before) :], True)]
        done = until
    return found


def _written(messages: Sequence[dict[str, str]], tokenizer: Any, *, asks: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=asks
        )
    except Exception as error:  # a template may refuse in its own words, or fail in any way
        raise BadRowError(f"the chat template raises: {first_line(error)}") from None
    return str(text)
