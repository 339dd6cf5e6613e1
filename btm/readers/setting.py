"""Questions and answers, as every reader takes and gives them (arXiv 1806.08727, section 3)."""

from dataclasses import dataclass, field

from btm.errors import UserError

LONGEST = 1 << 20  # characters of a question or of one text of its support

Span = tuple[int, int]  # first character, and the one after the last


@dataclass(frozen=True)
class QASetting:
    """A question with what it is asked about.

    Extractive: `support` are the texts, any of which may hold the answer. Multiple choice: one of
    `candidates`. NLI: the premise is the support, the hypothesis the question, the labels are the
    candidates. Links: the question is ``subject<TAB>relation<TAB>object``, ``?`` for what is asked.
    """

    question: str
    support: tuple[str, ...] = ()
    id: str = ""
    candidates: tuple[str, ...] = ()
    candidate_spans: tuple[Span, ...] = ()  # in the first text of the support

    def __post_init__(self) -> None:
        """Raise `UserError` for an empty question, or a text that is too long to be one."""
        called = f"question {self.id!r}" if self.id else "the question"
        if not self.question.strip():
            raise UserError(f"{called} is empty: wanted some text")
        longest = max(map(len, (self.question, *self.support)))
        if longest > LONGEST:
            raise UserError(
                f"{called} has a text of {longest:,} characters: wanted {LONGEST:,} at most"
            )


@dataclass(frozen=True)
class Answer:
    """An answer: its text, where it stands in the support, and how sure the reader is of it."""

    text: str
    span: Span | None = None  # in support[document]
    document: int = 0
    score: float = 0.0  # larger is surer; comparable among the answers to one question


@dataclass(frozen=True)
class Example:
    """A question with its right answers; any one of them is right, none means unanswerable."""

    setting: QASetting
    answers: tuple[Answer, ...] = field(default=())
