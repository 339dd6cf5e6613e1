"""A member that another server runs: it remembers its texts, and asks for the next token of each.

All texts of a step are asked about at once. The server keeps what it has read of them, or not:
vLLM, SGLang and llama.cpp have a cache of prefixes.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from btm.ensemble.posterior import Array
from btm.errors import UserError
from btm.serve.members.member import RUNNING, Found, LostError, Member, Pending, Piece, Rest
from btm.serve.members.remote.answers import Entry, Likeliest
from btm.serve.members.remote.probe import Completions, Offer

if TYPE_CHECKING:
    import torch

_AT_ONCE = 4  # requests
_PROMPTS, _TOKENS = 16, 8192  # of one request


@dataclass(frozen=True)
class _Ask:
    """A prompt of one text; with `echo` all of it is scored."""

    number: int
    prompt: tuple[int, ...]
    echo: bool


@dataclass
class _Read:
    """The entries that were answered about one text, by their place in it."""

    entries: dict[int, Entry] = field(default_factory=dict)

    def add(self, ask: _Ask, entries: Sequence[Entry]) -> None:
        """Take an answer; `ValueError` if it has not as many entries as it should."""
        wanted = len(ask.prompt) + 1 if ask.echo else 1
        if len(entries) != wanted:
            raise ValueError(f"{len(entries)} log-probs where {wanted} are wanted")
        first = len(ask.prompt) + 1 - wanted
        self.entries |= {first + i: entry for i, entry in enumerate(entries)}


class _Scored(NamedTuple):
    """The scores of T tokens, and the distributions in their places where they are wanted."""

    scores: Array  # (T,)
    slack: Array  # (T,), as Found.slack
    logp: "torch.Tensor"  # (T, V)


class RemoteMember(Member):
    """A model that another server runs."""

    def __init__(self, asked: Completions, offer: Offer, sha256: str) -> None:
        """Take an endpoint that was looked at."""
        self._asked, self._offer, self._sha256 = asked, offer, sha256
        self._pool = ThreadPoolExecutor(_AT_ONCE, "btm-remote")
        self._count = RUNNING
        self.clear()

    @property
    def vocabulary(self) -> int:
        """The tokens of the forest's tokenizer."""
        return self._asked.names.size

    def clear(self) -> None:
        """Forget all texts."""
        self._texts: dict[int, list[int]] = {}
        self._groups: dict[int, list[int]] = {RUNNING: []}
        self._listed: dict[int, frozenset[int]] = {}  # by the distribution before the next token

    def close(self) -> None:
        """Ask no more."""
        self._asked.endpoint.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, numbers: Sequence[int]) -> int:
        """Begin texts that nothing is known of; return the number of their group."""
        self._count += 1
        self._groups[self._count] = list(numbers)
        self._texts |= {number: [] for number in numbers}
        return self._count

    def texts(self, group: int = RUNNING) -> list[int]:
        """List the numbers of the texts of a group."""
        return list(self._groups.get(group, ()))

    def join(self, group: int) -> None:
        """Put the texts of a group among those that are being written."""
        self._groups[RUNNING] += self._groups.pop(group, [])

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts; those that are not here are passed over."""
        gone = set(numbers)
        for group, texts in list(self._groups.items()):
            self._groups[group] = [number for number in texts if number not in gone]
            if group != RUNNING and not self._groups[group]:
                del self._groups[group]
        for number in gone:
            self._texts.pop(number, None)
            self._listed.pop(number, None)

    def read(self, group: int, piece: Piece) -> Pending:
        """Begin to ask about every text of a group; raises `LostError` when waited for."""
        begins: dict[int, int] = {}
        asks: list[_Ask] = []
        for number in self._groups[group]:
            if not (new := piece.tokens.get(number)):
                continue  # it waits
            begins[number] = len(self._texts[number])
            self._texts[number] += new
            asks += self._asks(number, new, piece)
        try:
            futures = [(part, self._pool.submit(self._answers, part)) for part in _parts(asks)]
        except RuntimeError:  # it was closed
            raise LostError(f"{self._asked.expert.where}: closed", self._sha256) from None
        return lambda: self._wait(piece, begins, futures)

    def _asks(self, number: int, new: Sequence[int], piece: Piece) -> Iterator[_Ask]:
        """Yield the prompts that tell what a piece wants to know of one text."""
        text, following = tuple(self._texts[number]), piece.following.get(number, ())
        if following:
            if self._offer.echo:
                yield _Ask(number, (*text, *following[len(new) - 1 :]), echo=True)
                return
            begin = len(text) - len(new)
            for i in range(len(following)):
                yield _Ask(number, text[: begin + i + 1], echo=False)
        if piece.last and len(following) < len(new):
            echo = self._is_surprised(number, new)
            yield _Ask(number, text, echo)

    def _is_surprised(self, number: int, new: Sequence[int]) -> bool:
        """Whether the one new token was none of the likeliest, and its score can be asked for."""
        listed = self._listed.get(number)
        return self._offer.echo and len(new) == 1 and listed is not None and new[0] not in listed

    def _answers(self, asks: Sequence[_Ask]) -> list[list[Entry]]:
        prompts, echo = [ask.prompt for ask in asks], asks[0].echo
        return self._asked.ask(prompts, echo=echo, ids=self._offer.ids)

    def _wait(
        self,
        piece: Piece,
        begins: Mapping[int, int],
        futures: Sequence[tuple[Sequence[_Ask], "Future[list[list[Entry]]]"]],
    ) -> Found:
        reads = {number: _Read() for number in begins}
        try:
            for asks, future in futures:
                for ask, entries in zip(asks, future.result(), strict=True):
                    reads[ask.number].add(ask, entries)
            return self._found(piece, begins, reads)
        except UserError as error:
            raise LostError(str(error), self._sha256) from None
        except (ValueError, CancelledError) as error:
            said = f"{self._asked.expert.where}: {error or 'closed'}"
            raise LostError(said, self._sha256) from None

    def _found(self, piece: Piece, begins: Mapping[int, int], reads: Mapping[int, _Read]) -> Found:
        after: dict[int, torch.Tensor] = {}
        rests: dict[int, Rest] = {}
        exact: dict[int, float] = {}
        scored: dict[int, _Scored] = {}
        for number, read in reads.items():
            text, new = self._texts[number], self._texts[number][begins[number] :]
            if number in piece.following:
                scored[number] = self._score(piece, number, begins[number] + 1, read)
            if not piece.last:
                continue
            if self._is_surprised(number, new):
                exact[number] = self._exact(read.entries[len(text) - 1], text[-1])
            after[number], rest = self._distribution(read.entries[len(text)])
            self._listed.pop(number, None)
            if rest is not None:
                rests[number], self._listed[number] = rest, rest.listed
        scores = {number: each.scores for number, each in scored.items()}
        slack = {number: each.slack for number, each in scored.items()}
        whole = {number: scored[number].logp for number in piece.whole if number in scored}
        return Found(after, scores, whole, rests, slack, exact)

    def _score(self, piece: Piece, number: int, first: int, read: _Read) -> _Scored:
        """Score the tokens that follow, the first of which stands at place `first` of its text."""
        import torch

        following = piece.following[number]
        scores_T, slack_T = np.zeros(len(following)), np.zeros(len(following))
        logp_TV = torch.zeros(len(following) if number in piece.whole else 0, self.vocabulary)
        for t, token in enumerate(following):
            entry = read.entries[first + t]
            if self._offer.echo:
                scores_T[t] = self._exact(entry, token)
                if number in piece.whole:
                    logp_TV[t], _ = self._distribution(entry)
                continue
            logp_V, rest = self._distribution(entry)
            scores_T[t] = float(logp_V[token])
            if rest is not None and token not in rest.listed:
                slack_T[t] = rest.most - scores_T[t]
            if number in piece.whole:
                logp_TV[t] = logp_V
        return _Scored(scores_T, slack_T, logp_TV)

    def _exact(self, entry: Entry, token: int) -> float:
        """Read the score of a token that was in the prompt."""
        if entry.token.logp is None:
            raise ValueError("a token of the prompt has no log-prob")
        if entry.token.id not in (None, token):
            raise ValueError(f"token {entry.token.id} where {token} was sent")
        return entry.token.logp

    def _distribution(self, entry: Entry) -> "tuple[torch.Tensor, Rest | None]":
        names = self._asked.names
        top = Likeliest.of(entry.top, names.id_of, self._asked.top, names.size)
        return top.spread(names.size)


def _parts(asks: Sequence[_Ask]) -> Iterator[list[_Ask]]:
    """Divide prompts among requests: those alike in `echo` together, not too many."""
    for echo in (False, True):
        part: list[_Ask] = []
        for ask in (ask for ask in asks if ask.echo == echo):
            total = sum(len(each.prompt) for each in part) + len(ask.prompt)
            if part and (len(part) == _PROMPTS or total > _TOKENS):
                yield part
                part = []
            part.append(ask)
        if part:
            yield part
