"""One answer, as it is told piece by piece: its text, its tokens and their places, its end."""

from dataclasses import dataclass, field
from typing import Any

from btm.serve.catalog import Served
from btm.serve.http.asking import Text
from btm.serve.http.pieces import Places
from btm.serve.request import Done, Event, Prompt, Request, Token


@dataclass(frozen=True)
class Placed:
    """A token, and where it begins in the text of its answer."""

    token: Token
    place: int
    is_scored: bool = True  # nothing predicts the start of a text


@dataclass
class Piece:
    """Tokens and text of an answer that were not sent yet."""

    text: str = ""
    tokens: list[Placed] = field(default_factory=list)
    finish: str | None = None  # stop or length, where it is over
    lost: tuple[str, ...] = ()  # members that it went on without


class Choice:
    """An answer that is made of the events of one request.

    A token is passed on with the text that it begins in: what a stop string cuts off has no tokens.
    """

    def __init__(
        self, request: Request, text: Text, served: Served, tokenizer: Any, *, echo: bool
    ) -> None:
        """Begin; with `echo` the text begins with the prompt's own."""
        self._request, self._given, self._served = request, text, served
        self._echo = echo
        self._tokenizer = tokenizer
        self._places = Places(tokenizer, [] if echo else text.all)
        self._held: list[Placed] = []  # tokens whose text is not out yet
        self._length = 0  # of the text that is out, in characters
        self.written = 0  # tokens

    def take(self, event: Event) -> Piece:
        """Follow an event; return what is new."""
        if isinstance(event, Prompt):
            return self._read(event)
        if isinstance(event, Token):
            return self._wrote(event)
        return self._ended(event)

    def _read(self, event: Prompt) -> Piece:
        if not self._echo:
            return Piece()
        tokens = list(event.tokens)
        begins, scored = self._given.begins, [True] * len(tokens)
        if begins is not None and self._request.score_prompt:
            tokens, scored = [Token(begins, 0.0), *tokens], [False, *scored]
        told = [
            Placed(token, self._places.add(token.id), is_scored)
            for token, is_scored in zip(tokens, scored, strict=True)
        ]
        text = str(self._tokenizer.decode(self._given.all, clean_up_tokenization_spaces=False))
        self._length = len(text)
        return Piece(text, told)

    def _wrote(self, token: Token) -> Piece:
        self.written += 1
        if token.id in self._served.ends and not self._request.ignore_ends:
            # It ends the text and is no part of it, but was chosen with a probability of its own.
            self._held.append(Placed(token, self._places.place))
            return Piece()
        self._held.append(Placed(token, self._places.add(token.id)))
        return self._out(token.text)

    def _ended(self, done: Done) -> Piece:
        piece = self._out(done.text)
        if not isinstance(done.stopped_by, str):
            piece.tokens += self._held
        self._held = []
        piece.finish, piece.lost = done.reason, done.lost
        return piece

    def _out(self, text: str) -> Piece:
        """Pass on a text, and the tokens that begin in what is out by now."""
        self._length += len(text)
        out = [placed for placed in self._held if placed.place < self._length]
        self._held = self._held[len(out) :]
        return Piece(text, out)
