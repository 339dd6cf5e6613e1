"""The text of one answer, up to a string that ends it."""

from collections.abc import Sequence
from typing import Any

from btm.data.decoding import Continuation


class StoppedText:
    """Text that is told token by token, and ends before the first of several strings.

    What may be the beginning of such a string is held back until it is certain that it is none.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str]) -> None:
        """Begin after the tokens `prompt`."""
        self._continuation = Continuation(tokenizer, prompt)
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped_by: str | None = None

    def add(self, token: int) -> str:
        """Add a token; return the text that is certain since. `stopped_by` tells of an end."""
        return self._pass(self._continuation.add(token))

    def rest(self) -> str:
        """Return the text that was held back, where no token follows."""
        passed = self._pass(self._continuation.rest())
        if self.stopped_by is None:
            passed, self._held = passed + self._held, ""
        return passed

    def _pass(self, piece: str) -> str:
        if not piece or self.stopped_by is not None:
            return ""
        text = self._held + piece
        found = [(text.index(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, self.stopped_by = min(found, key=lambda each: each[0])
            self._held = ""
            return text[:end]
        certain = len(text) - self._open(text)
        self._held = text[certain:]
        return text[:certain]

    def _open(self, text: str) -> int:
        """Measure the longest end of `text` that a stop string begins with, in characters."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
