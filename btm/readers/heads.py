"""Heads on hidden states, one for each expert or one for all, mixed by the domain posterior.

Shapes: B items, K experts of each.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from btm.errors import unknown

OWN, SHARED = KINDS = ("own", "shared")


class Mixed(nn.Module):
    """p = Σ_k w_k p_k, where p_k is what the head of expert k makes of that expert's states.

    kind=own: a head for each of `experts`; kind=shared: one for the states of all, which may be
    alike, as experts are branched from one seed.
    """

    def __init__(self, kind: str, experts: int, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("reader.options heads", kind, KINDS)
        self.heads = nn.ModuleList([make() for _ in range(experts if kind == OWN else 1)])

    def forward(self, experts_BK: Tensor, weights_BK: Tensor, *given: Tensor) -> Tensor:
        """Mix the log probabilities (B, …) of the heads.

        Of `given`, (B, K, …) is by expert; a head is called with a row of each expert, (R, …).
        """
        turn_BK = experts_BK if len(self.heads) > 1 else torch.zeros_like(experts_BK)
        found: Tensor | None = None
        for number, head in enumerate(self.heads):
            where = turn_BK == number
            if where.any():
                logp = head(*(each[where] for each in given))
                if found is None:
                    found = logp.new_zeros((*experts_BK.shape, *logp.shape[1:]))
                found = found.index_put(where.nonzero(as_tuple=True), logp)
        assert found is not None  # K is at least 1
        weights = weights_BK.clamp_min(1e-9).log().view(*weights_BK.shape, *[1] * (found.dim() - 2))
        return torch.logsumexp(found + weights, dim=1)
