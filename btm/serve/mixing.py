"""Mix the distributions of several members, for several requests at once.

Shapes: B requests, k members of each, V tokens of the vocabulary.
"""

from collections.abc import Sequence

import torch

from btm.ensemble.posterior import Array


def mix(
    logp_BkV: Sequence[Sequence[torch.Tensor]], log_weights_Bk: Sequence[Array], size: int
) -> torch.Tensor:
    """Mix in log space and float64: log Σ_j w_j p_j of every token, (B, V).

    Embeddings may be padded: what lies beyond the `size` of the vocabulary is no token.
    """
    size = min(size, *(logp_V.shape[0] for logp_kV in logp_BkV for logp_V in logp_kV))
    logp = torch.stack([torch.stack([p[:size] for p in logp_kV]) for logp_kV in logp_BkV])
    if logp.shape[1] == 1:
        return logp[:, 0].double()
    weights = torch.stack([torch.as_tensor(w, dtype=torch.float64) for w in log_weights_Bk])
    return torch.logsumexp(logp.double() + weights.to(logp.device)[:, :, None], dim=1)


def likeliest(logp_V: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """List the `count` likeliest tokens and their log p, the likeliest first."""
    if not count:
        return []
    values, tokens = logp_V.topk(min(count, len(logp_V)))
    return list(zip(tokens.tolist(), values.tolist(), strict=True))
