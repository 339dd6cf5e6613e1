"""Read the known tokens of several requests at once, piece by piece.

All texts end at the same column, so that all are read at once: shorter ones begin in a later piece.
Each piece is read by every member; then the weights of each request follow its tokens, in order.
Between two pieces the engine writes a token of every request that is being written.

Shapes: T tokens of a piece, k active members of a request, V tokens of the vocabulary.
"""

from collections.abc import Sequence

import numpy as np

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
        self.read = 0  # tokens, whatever the number of members
        self._members = members
        self._until = {a.number: a.to_read for a in answers}
        self._width = max(self._until.values())
        self._at = 0
        # The group of each member; two members of a request may be one model.
        self.groups = {sha: members[sha].begin(texts) for sha, texts in self._texts().items()}

    def step(self) -> tuple[bool, dict[str, LostError]]:
        """Read the next piece; tell whether all was read, and which members were lost."""
        stop = min(self._width, self._at + self._piece())
        texts = self._texts()
        # A member may have been lost since, as what is being written needed it.
        self.groups = {sha: group for sha, group in self.groups.items() if sha in texts}
        asked = {sha: (group, self._ask(texts[sha], stop)) for sha, group in self.groups.items()}
        found, lost = self._members.read(asked)
        for sha, error in lost.items():
            del self.groups[sha]
            for a in self.answers:
                a.lose(sha, str(error))
        self.drop([a.number for a in self.answers if a.over])
        for a in self.answers:
            self._follow(a, stop, [found[sha] for sha in a.keys])
        self.read += sum(len(self._new(a, stop)) for a in self.answers)
        self._at = stop
        return stop == self._width, lost

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
            for sha in dict.fromkeys(a.keys):
                found.setdefault(sha, []).append(a.number)
        return found

    def _piece(self) -> int:
        """Compute how many columns are read at once."""
        sizes = [self._members[sha].vocabulary or 1 for sha in self.groups]
        held = len(self.groups) if any(a.needs_whole for a in self.answers) else 1
        rows = len(self.answers)
        return max(1, min(_TOKENS // rows, _NUMBERS // (rows * max(sizes) * held)))

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
            {a.number: self._new(a, stop, 1) for a in begun if a.needs_scores},
            frozenset(a.number for a in begun if a.needs_whole),
            last=stop == self._width,
        )

    def _follow(self, a: Answer, stop: int, found_k: Sequence[Found]) -> None:
        """Let the weights of a request follow the tokens that the piece has given scores."""
        if stop == self._width:
            a.expect(found_k)
            if not a.needs_scores:
                a.passed(self._until[a.number])
        if not a.needs_scores or a.number not in found_k[0].scores:
            return
        logp_kT = np.stack([found.scores[a.number] for found in found_k])
        slack_kT = [found.slack.get(a.number) for found in found_k]
        place = max(0, self._at - (self._width - self._until[a.number]))
        for t in range(logp_kT.shape[1]):
            place += 1  # of the token that was given this score
            if place < a.scored:
                continue
            token = a.tokens[place]
            top: Sequence[tuple[int, float]] = ()
            if a.needs_whole:
                logp_kV = [found.whole[a.number][t] for found in found_k]
                mixed_V = mix([logp_kV], [a.log_weights], a.served.vocabulary)[0]
                top = likeliest(mixed_V, a.request.top)
            slack_k = [0.0 if slack_T is None else float(slack_T[t]) for slack_T in slack_kT]
            a.saw(token, logp_kT[:, t], top, slack_k)
