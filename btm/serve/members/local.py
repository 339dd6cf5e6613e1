"""A model in this process, which reads texts in batches with one KV cache for each batch."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from btm.ensemble.posterior import Array
from btm.models import causal_lm
from btm.serve.members.kv_cache import Alone, Batch, can_batch
from btm.serve.members.member import RUNNING, Found, Member, Pending, Piece

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LocalMember(Member):
    """A model in this process."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Take a loaded model; whether it can read several texts at once is tried."""
        self.model = model
        self._kind = Batch if can_batch(model) else Alone
        self._count = RUNNING
        self.clear()

    @cached_property
    def vocabulary(self) -> int:
        """The tokens that it has a logit for."""
        return causal_lm.vocabulary(self.model) or 0

    def clear(self) -> None:
        """Forget all texts."""
        self._groups: dict[int, Batch | Alone] = {RUNNING: self._kind(self.model)}

    def begin(self, numbers: Sequence[int]) -> int:
        """Begin texts that it has read nothing of; return the number of their group."""
        self._count += 1
        self._groups[self._count] = self._kind(self.model, numbers)
        return self._count

    def texts(self, group: int = RUNNING) -> list[int]:
        """List the numbers of the texts of a group."""
        found = self._groups.get(group)
        return list(found.numbers) if found else []

    def join(self, group: int) -> None:
        """Put the texts of a group among those that are being written."""
        if group in self._groups:  # else all of it was dropped
            self._groups[RUNNING].absorb(self._groups.pop(group))  # type: ignore[arg-type]

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts, in whatever group; those that it does not have are passed over."""
        for group, batch in list(self._groups.items()):
            batch.drop(numbers)
            if group != RUNNING and not batch.numbers:
                del self._groups[group]

    def read(self, group: int, piece: Piece) -> Pending:
        """Read a piece of every text of a group once it is waited for: members elsewhere, which
        are asked before that, read theirs meanwhile.
        """
        return lambda: self.compute(group, piece)

    @torch.inference_mode()
    def compute(self, group: int, piece: Piece) -> Found:
        """Read a piece of every text of a group; return what it asks for."""
        batch = self._groups[group]
        rows = list(batch.numbers)
        tokens_RT, real_RT = self._padded(rows, piece.tokens)
        logits_RTV = batch.read(tokens_RT, real_RT, last=not piece.following)
        found: dict[int, torch.Tensor] = {}
        if piece.last:
            logp_RV = torch.log_softmax(logits_RTV[:, -1], -1)
            found = {
                n: logp_V for n, logp_V in zip(rows, logp_RV, strict=True) if piece.tokens.get(n)
            }
        if not piece.following:
            return Found(found)
        wide = logits_RTV.shape[1]
        starts = {number: wide - len(piece.tokens[number]) for number in piece.following}
        whole = {
            number: torch.log_softmax(
                logits_RTV[rows.index(number), starts[number] :][: len(piece.following[number])], -1
            )
            for number in piece.whole
        }
        return Found(found, self._scores(rows, logits_RTV, piece.following, starts), whole)

    def _scores(
        self,
        rows: list[int],
        logits_RTV: torch.Tensor,
        following: Mapping[int, Sequence[int]],
        starts: Mapping[int, int],
    ) -> dict[int, Array]:
        """Compute log p of the tokens that follow; those of a text begin at its column `starts`."""
        tokens_RT = torch.zeros(logits_RTV.shape[:2], dtype=torch.long)
        for number, tokens in following.items():
            at = starts[number]
            tokens_RT[rows.index(number), at : at + len(tokens)] = torch.tensor(
                tokens, dtype=torch.long
            )
        chosen_RT = logits_RTV.gather(2, tokens_RT.to(logits_RTV.device)[:, :, None])[:, :, 0]
        logp_RT = (chosen_RT - logits_RTV.logsumexp(2)).cpu().numpy().astype(np.float64)
        return {
            number: logp_RT[rows.index(number), starts[number] :][: len(tokens)]
            for number, tokens in following.items()
        }

    def _padded(
        self, rows: list[int], tokens: Mapping[int, Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Lay tokens in rows, padded on the left; None where none is padding."""
        lengths = [len(tokens.get(number, ())) for number in rows]
        wide = max(lengths)
        padded = [
            [0] * (wide - length) + list(tokens.get(number, ()))
            for number, length in zip(rows, lengths, strict=True)
        ]
        tokens_RT = torch.tensor(padded, device=self.model.device)
        if min(lengths) == wide:
            return tokens_RT, None
        begins_R = wide - torch.tensor(lengths, device=self.model.device)
        return tokens_RT, torch.arange(wide, device=self.model.device) >= begins_R[:, None]
