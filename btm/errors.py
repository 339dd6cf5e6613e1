"""The exceptions that end a command in one line, and the hints that go with them."""

import difflib
import shlex
from collections.abc import Iterable, Sequence

_LISTED = 10  # names in a message, of those that exist
_FIRST = 3  # names in a message that only tells which


class UserError(Exception):
    """A mistake in what was asked or given; the CLI prints it as one line and exits with code 2."""


def reword(error: Exception, was: str, now: str) -> None:
    """Write `now` for `was`, a path that is going away, in an error's message and file names.

    A user reads the message when a held folder has its own name again, or a copy is deleted.
    """
    error.args = tuple(
        part.replace(was, now) if isinstance(part, str) else part for part in error.args
    )
    if isinstance(error, OSError):
        for place in ("filename", "filename2"):
            if isinstance(name := getattr(error, place), str):
                setattr(error, place, name.replace(was, now))


class TrainingStoppedError(Exception):
    """The training was asked to stop, and did so after a checkpoint; the same call goes on from
    there.
    """


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of `choices`, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, word: str, choices: Iterable[str], where: str = "") -> UserError:
    """Build the error for a name that is none of `choices`; the message lists the nearest ten."""
    have = sorted(choices)
    place = f" in {where}" if where else ""
    word = word if len(word) <= 100 else word[:100] + "…"
    return UserError(f"no {kind} {word!r}{place}{nearest(word, have)}; have: {_listed(word, have)}")


def command(verb: str, **keys: object) -> str:
    """Write a command as a shell takes it, each word quoted where it must be.

    A key with a dot is given as ``**{"data.name": name}``.
    """
    words = [shlex.quote(f"{key}={value}") for key, value in keys.items()]
    return " ".join(["btm", verb, *words])


def first_of(names: Sequence[str]) -> str:
    """Write the first names, and how many more there are."""
    more = len(names) - _FIRST
    return ", ".join(names[:_FIRST]) + (f" and {more} more" if more > 0 else "")


def _listed(word: str, have: list[str]) -> str:
    """Write the names of `have` that are most like `word`, in their order, and how many more."""
    near = set(difflib.get_close_matches(word, have, n=_LISTED, cutoff=0))
    listed = ", ".join(name for name in have if name in near) or "none"
    return listed + (f" and {len(have) - len(near)} more" if len(have) > len(near) else "")


def first_line(error: BaseException) -> str:
    """Say in one line what an error of a library says, its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
