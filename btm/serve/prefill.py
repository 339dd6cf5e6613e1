"""Read the known tokens of several requests at once, piece by piece.

Texts are padded on the left to the longest, so that all end at once. Each piece is read by every
member; then the weights of each request follow its tokens, in order. Between two pieces the engine
writes a token of every request that is being written.

Shapes: R requests, T tokens of a piece, k active members of a request, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from btm.ensemble.posterior import Array
from btm.models import causal_lm
from btm.serve.answer import Answer
from btm.serve.members import Members
from btm.serve.mixing import likeliest, mix

if TYPE_CHECKING:
    from btm.serve.members import AnyBatch

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
        device = next(members[sha].model.device for a in answers for sha in a.keys)
        self._tokens = torch.zeros(len(answers), self._width, dtype=torch.long, device=device)
        self._real = torch.zeros_like(self._tokens, dtype=torch.bool)
        self._row = {a.number: row for row, a in enumerate(answers)}
        for row, a in enumerate(answers):
            count = self._until[a.number]
            known = torch.tensor(a.tokens[:count], device=device)
            self._tokens[row, self._width - count :] = known
            self._real[row, self._width - count :] = True
        by_sha: dict[str, list[int]] = {}
        for a in answers:
            for sha in dict.fromkeys(a.keys):  # two members may be one model
                by_sha.setdefault(sha, []).append(a.number)
        self.batches: dict[str, AnyBatch] = {
            sha: members[sha].begin(numbers) for sha, numbers in by_sha.items()
        }

    def step(self) -> bool:
        """Read the next piece; tell whether all was read."""
        stop = min(self._width, self._at + self._piece())
        ends = stop == self._width
        scores: dict[tuple[int, str], Array] = {}
        whole: dict[tuple[int, str], torch.Tensor] = {}
        last: dict[tuple[int, str], torch.Tensor] = {}
        for sha, batch in self.batches.items():
            self._read(sha, batch, stop, scores, whole, last)
        for a in self.answers:
            self._follow(a, stop, scores, whole)
            if ends:
                a.next = [last[a.number, sha] for sha in a.keys]
        self.read += int(self._real[:, self._at : stop].sum())
        self._at = stop
        return ends

    def drop(self, numbers: Sequence[int]) -> None:
        """Leave off reading requests."""
        self.answers = [a for a in self.answers if a.number not in numbers]
        for batch in self.batches.values():
            batch.drop(numbers)
        self.batches = {sha: batch for sha, batch in self.batches.items() if batch.numbers}

    def _piece(self) -> int:
        """Compute how many columns are read at once."""
        sizes = [causal_lm.vocabulary(self._members[sha].model) or 1 for sha in self.batches]
        held = len(self.batches) if any(a.needs_whole for a in self.answers) else 1
        rows = len(self.answers)
        return max(1, min(_TOKENS // rows, _NUMBERS // (rows * max(sizes) * held)))

    def _read(
        self,
        sha: str,
        batch: "AnyBatch",
        stop: int,
        scores: dict[tuple[int, str], Array],
        whole: dict[tuple[int, str], torch.Tensor],
        last: dict[tuple[int, str], torch.Tensor],
    ) -> None:
        """Read a piece with one member; keep its scores, and what follows the last token."""
        rows = [self._row[number] for number in batch.numbers]
        answers = {a.number: a for a in self.answers}
        scored = any(answers[number].needs_scores for number in batch.numbers)
        piece = slice(self._at, stop)
        logits_RTV = batch.read(self._tokens[rows, piece], self._real[rows, piece], last=not scored)
        if stop == self._width:
            logp_RV = torch.log_softmax(logits_RTV[:, -1], -1)
            last |= {(n, sha): logp_V for n, logp_V in zip(batch.numbers, logp_RV, strict=True)}
        if not scored:
            return
        # The logits after a token are of the next one, which may be the first of the next piece.
        following = self._tokens[rows, self._at + 1 : stop + 1]
        logits_RTV = logits_RTV[:, : following.shape[1]]
        logp_RT = logits_RTV.gather(2, following[:, :, None])[:, :, 0] - logits_RTV.logsumexp(2)
        found = logp_RT.cpu().numpy().astype(np.float64)
        for i, number in enumerate(batch.numbers):
            scores[number, sha] = found[i]
            if answers[number].needs_whole:
                whole[number, sha] = torch.log_softmax(logits_RTV[i], -1)

    def _follow(
        self,
        a: Answer,
        stop: int,
        scores: dict[tuple[int, str], Array],
        whole: dict[tuple[int, str], torch.Tensor],
    ) -> None:
        """Let the weights of a request follow the tokens that the piece has given scores."""
        until = self._until[a.number]
        if not a.needs_scores:
            if stop == self._width:
                a.passed()
            return
        logp_kT = np.stack([scores[a.number, sha] for sha in a.keys])
        first = self._width - until  # the column of its first token
        for t in range(logp_kT.shape[1]):
            place = self._at + t + 1 - first  # of the token that was given this score
            if place < a.scored:
                continue
            token = a.tokens[place]
            top: Sequence[tuple[int, float]] = ()
            if a.needs_whole:
                logp_kV = [whole[a.number, sha][t] for sha in a.keys]
                mixed_V = mix([logp_kV], [a.log_weights], a.served.vocabulary)[0]
                top = likeliest(mixed_V, a.request.top)
            a.saw(token, logp_kT[:, t], top)
