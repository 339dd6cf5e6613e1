"""The span head: where an answer begins and ends, or that there is none.

Shapes: R rows, T tokens, S = T + 1 places (0: no answer), H the width of hidden states.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from btm.readers.heads import OWN, Mixed
from btm.readers.modules import ModelModule
from btm.readers.ports import Batch, Port
from btm.readers.spans.windows import (
    ASKED,
    EXPERTS,
    FEATURES,
    FILLED,
    FIRST,
    LAST,
    STATES,
    WEIGHTS,
    Windows,
)

BEGIN, END = Port("begin", shape="BS"), Port("end", shape="BS")  # log probabilities of places


class Head(nn.Module):
    """Scores the places of one expert's states.

    Each token has its state, that state times the question's, and the overlap features; a GRU runs
    over them both ways, so that a token knows its neighbours (FastQA, arXiv 1703.04816).
    """

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        self.drop = nn.Dropout(dropout)
        self.gru = nn.GRU(2 * dim + 3, dim, batch_first=True, bidirectional=True)
        self.places = nn.Linear(2 * dim, 2)
        self.none = nn.Linear(4 * dim, 2)

    def forward(self, states: Tensor, asked: Tensor, features: Tensor, filled: Tensor) -> Tensor:
        """Return log probabilities of begin and end, (R, 2, S)."""
        tokens_RTD = torch.tanh(self.project(states))
        asked_RD = torch.tanh(self.project(asked))
        joined = torch.cat([tokens_RTD, tokens_RTD * asked_RD[:, None], features], -1)
        lengths = filled.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.drop(joined), lengths, batch_first=True, enforce_sorted=False
        )
        read, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=filled.shape[1]
        )
        read = self.drop(read)
        scores_R2T = self.places(read).masked_fill(~filled[..., None], -1e9).transpose(1, 2)
        mean = read.sum(1) / lengths[:, None]
        most = read.masked_fill(~filled[..., None], -1e9).amax(1)
        none_R2 = self.none(torch.cat([mean, most], -1))
        found: Tensor = torch.cat([none_R2[..., None], scores_R2T], -1).log_softmax(-1)
        return found


class Span(ModelModule):
    """Heads of `dim` places, mixed by the domain posterior of the support."""

    takes = (STATES, ASKED, EXPERTS, WEIGHTS, FEATURES, FILLED)
    gives = (BEGIN, END)
    targets = (FIRST, LAST)

    def __init__(
        self, before: Windows, *, dim: int = 48, dropout: float = 0.2, heads: str = OWN
    ) -> None:
        super().__init__(before)
        width, experts = before.ground.width, len(before.ground.models)
        self.mixed = Mixed(heads, experts, lambda: Head(width, dim, dropout))

    def forward(self, batch: Batch) -> Batch:
        """Compute log probabilities of where the answer begins and ends."""
        count = batch["experts"].shape[1]
        same = [
            batch[name][:, None].expand(-1, count, *batch[name].shape[1:])
            for name in ("features", "filled")
        ]
        found_B2S = self.mixed(
            batch["experts"], batch["weights"], batch["states"], batch["asked"], *same
        )
        return {"begin": found_B2S[:, 0], "end": found_B2S[:, 1]}

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean negative log likelihood of begin and end."""
        found = self(batch)
        begin = F.nll_loss(found["begin"], batch["first"])
        return begin + F.nll_loss(found["end"], batch["last"])
