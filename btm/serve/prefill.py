"""Read the known tokens of several requests at once, piece by piece.

All texts end at the same column, so that all are read at once: shorter ones begin in a later piece.
Each piece is read by every member; then the weights of each request follow its tokens, in order.
Between two pieces the engine writes a token of every request that is being written. One that has
recalled members waits meanwhile: they read all that it has so far in the same way.

Shapes: T tokens of a piece, k active members of a request, V tokens of the vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence

from btm.serve.answer import Answer
from btm.serve.members.loading import Members
from btm.serve.members.member import Found, LostError, Piece
from btm.serve.mixing import likeliest, mix

_TOKENS = 512  # of a piece, over all requests: others wait for it
_NUMBERS = 1 << 26  # of logits that are held at once


class Prefill:
    """Requests that are being read."""

    def __init__(self, answers: Sequence[Answer], members: Members) -> None:
        """Begin at the start of each text."""
        self.answers = list(answers)
        self.read = 0  # tokens of prompts, whatever the number of members
        self._members = members
        # Who reads a text, how far, and what for is settled now: a commitment, a recall and a loss
        # within it change what comes next.
        self._readers = {a.number: a.readers for a in answers}
        self._scores = {a.number: a.needs_scores for a in answers}
        self._until = {a.number: a.to_read for a in answers}
        self._again = {a.number for a in answers if a.wanted}
        self._width = max(self._until.values())
        self._at = 0
        # The group of each member; two members of a request may be one model.
        self.groups = {sha: members[sha].begin(texts) for sha, texts in self._texts().items()}
        for a in answers:
            a.held.update(a.keys_of(a.readers))

    def step(self) -> tuple[bool, dict[str, LostError]]:
        """Read the next piece; tell whether all was read, and which members were lost."""
        self.drop([a.number for a in self.answers if a.over])  # since the last piece
        if not self.answers:
            return True, {}
        stop = min(self._width, self._at + self._piece())
        texts = self._texts()
        asked = {sha: (group, self._ask(texts[sha], stop)) for sha, group in self.groups.items()}
        # A member whose texts are all shorter has nothing to read yet.
        asked = {sha: piece for sha, piece in asked.items() if any(piece[1].tokens.values())}
        found, lost = self._members.read(asked)
        for sha, error in lost.items():
            for a in self.answers:
                a.lose(sha, str(error))
        self.lose(lost)
        self.drop([a.number for a in self.answers if a.over])
        for a in self.answers:
            readers = self._readers[a.number]
            keys = zip(readers, a.keys_of(readers), strict=True)
            if of_reader := {j: found[sha] for j, sha in keys if sha in found}:
                self._follow(a, stop, of_reader)
        self.read += sum(
            len(self._new(a, stop)) for a in self.answers if a.number not in self._again
        )
        self._at = stop
        return stop == self._width, lost

    def lose(self, shas: Collection[str]) -> None:
        """Read on without members that do not answer any more."""
        self.groups = {sha: group for sha, group in self.groups.items() if sha not in shas}
        for a in self.answers:
            readers = self._readers[a.number]
            self._readers[a.number] = [
                j for j, sha in zip(readers, a.keys_of(readers), strict=True) if sha not in shas
            ]

    def drop(self, numbers: Sequence[int]) -> None:
        """Leave off reading requests."""
        if not numbers:
            return
        self.answers = [a for a in self.answers if a.number not in numbers]
        for sha in self.groups:
            self._members[sha].drop(numbers)
        texts = self._texts()
        self.groups = {sha: group for sha, group in self.groups.items() if sha in texts}

    def _texts(self) -> dict[str, list[int]]:
        """Number the texts that each member reads."""
        found: dict[str, list[int]] = {}
        for a in self.answers:
            for sha in dict.fromkeys(a.keys_of(self._readers[a.number])):
                found.setdefault(sha, []).append(a.number)
        return found

    def _piece(self) -> int:
        """Compute how many columns are read at once."""
        sizes = [self._members[sha].vocabulary or 1 for sha in self.groups]
        held = len(self.groups) if any(a.needs_whole for a in self.answers) else 1
        rows = len(self.answers)
        most = max(sizes, default=1)
        return max(1, min(_TOKENS // rows, _NUMBERS // (rows * most * held)))

    def _new(self, a: Answer, stop: int, shift: int = 0) -> list[int]:
        """Return the tokens of a text in the columns of this piece, or those `shift` later."""
        until = self._until[a.number]
        first = self._width - until  # the column of its first token
        begin, end = (max(0, column - first) + shift for column in (self._at, stop))
        return a.tokens[begin : min(end, until)]

    def _ask(self, numbers: Sequence[int], stop: int) -> Piece:
        """Lay out the piece of these texts, for one member."""
        answers = [a for a in self.answers if a.number in numbers]
        begun = [a for a in answers if self._width - self._until[a.number] < stop]
        return Piece(
            {a.number: self._new(a, stop) for a in answers},
            # The logits after a token are of the next, which may be the first of the next piece.
            {a.number: self._new(a, stop, 1) for a in begun if self._scores[a.number]},
            frozenset(a.number for a in begun if a.needs_whole),
            last=stop == self._width,
        )

    def _follow(self, a: Answer, stop: int, found: Mapping[int, Found]) -> None:
        """Let the weights of a request follow the tokens that the piece has given scores."""
        if stop == self._width:
            a.expect(found)
            if not self._scores[a.number]:
                a.passed(self._until[a.number])
        one = next(iter(found.values()))
        if not self._scores[a.number] or a.number not in one.scores:
            return
        # The place of the first token that was given a score.
        first = 1 + max(0, self._at - (self._width - self._until[a.number]))
        slack = {j: each.slack[a.number] for j, each in found.items() if a.number in each.slack}
        a.heard(first, {j: each.scores[a.number] for j, each in found.items()}, slack)

        def top(place: int) -> Sequence[tuple[int, float]]:
            logp_kV = [found[j].whole[a.number][place - first] for j in a.active]
            mixed_V = mix([logp_kV], [a.log_weights], a.served.vocabulary)[0]
            return likeliest(mixed_V, a.request.top)

        a.follow(top if a.needs_whole else None)
