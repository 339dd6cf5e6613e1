"""The exception that a user is meant to see, and the hints that go with it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked or given; the CLI prints it as one line and exits with code 2."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of `choices`, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, word: str, choices: Iterable[str], where: str = "") -> UserError:
    """Return the error for a name that is none of `choices`; the message lists them all."""
    have = sorted(choices)
    place = f" in {where}" if where else ""
    word = word if len(word) <= 100 else word[:100] + "…"
    return UserError(
        f"no {kind} {word!r}{place}{nearest(word, have)}; have: {', '.join(have) or 'none'}"
    )
