"""One line to the user about something that did not work and does not matter to the result."""

import sys
from contextlib import suppress

_said: set[str] = set()


def note(text: str) -> None:
    """Print ``note: …`` on stderr, in a job its log; the same line once, and never an error."""
    line = " ".join(text.split())
    if line in _said:
        return
    _said.add(line)
    with suppress(OSError, ValueError):  # a full disk, a closed stream, letters it does not have
        print(f"note: {line}", file=sys.stderr, flush=True)
