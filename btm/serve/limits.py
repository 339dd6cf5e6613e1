"""The most that the engine takes on at once, and the errors of what is over it."""

from dataclasses import dataclass

from btm.errors import UserError


class TooLongError(UserError):
    """Prompt and answer have more tokens than a model has positions, or than the server allows."""


class FullError(UserError):
    """As many requests wait as may."""


@dataclass(frozen=True)
class Limits:
    """The most requests and tokens that the engine takes on at once."""

    running: int = 16  # requests that are read and written at once
    waiting: int = 64  # requests that wait for a place (btm/serve/shares.py)
    context: int = 0  # tokens of a prompt and its answer; 0: what the members have positions for


@dataclass(frozen=True)
class Counts:
    """Requests in the engine now, and tokens since it began."""

    running: int
    waiting: int
    read: int  # tokens of prompts
    written: int
