"""The evaluation of an ensemble on a shard from cached scores, in numpy alone.

Shapes: E experts, S windows, T tokens of a window. Scores are log p(x_t | x_<t, D=j) in nats.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior
from btm.ensemble.rule import AnyRoute, ValidScores
from btm.ensemble.rules import rule_of


def numbers(nats: float, tokens: int, utf8_bytes: int) -> dict[str, float]:
    """Give a loss as nats per token, perplexity and bits per byte."""
    return {
        "nats_per_token": nats / tokens,
        "perplexity": posterior.perplexity(nats / tokens),
        "bits_per_byte": posterior.bits_per_byte(nats, utf8_bytes),
    }


def shard_result(
    names: list[str],
    logp_EST: NDArray[np.float32],
    members: list[str],
    valid_EST: NDArray[np.float32],
    ensemble: EnsembleConfig,
    size: tuple[int, int],
    valid_tokens: int,
    ids: tuple[NDArray[Any], NDArray[Any]] | None = None,
    route: AnyRoute | None = None,
) -> dict[str, Any]:
    """Compute the entry of evals/<name>.json for one shard of `size` (tokens, UTF-8 bytes).

    `names` are the ELMs of `logp_EST`, every one of them reported alone; `members` are those of the
    ensemble, and of `valid_EST`, on which its prior and what else `ensemble` leaves open are
    fitted. `ids` are the tokens of the shard and of valid, for the rules `gated` and `router`, and
    `route` is the latter's.
    """
    tokens, utf8_bytes = size
    rows = [names.index(member) for member in members]
    ids_N, valid_ids_N = ids or (None, None)
    rule = rule_of(ensemble)
    log_prior_E = rule.fit_prior(valid_EST)
    rule = rule.fit([ValidScores(valid_EST, log_prior_E, valid_tokens, valid_ids_N)])
    mixed = rule.mix(logp_EST[rows], log_prior_E, tokens, ids_N, route)
    alone = -logp_EST.reshape(len(names), -1)[:, :tokens].sum(axis=1, dtype=np.float64)
    return {
        "tokens": tokens,
        "bytes": utf8_bytes,
        "ensemble": numbers(mixed.nats, tokens, utf8_bytes),
        "experts": {
            n: numbers(float(x), tokens, utf8_bytes) for n, x in zip(names, alone, strict=True)
        },
        **rule.report(),
        "prior": {n: float(p) for n, p in zip(members, np.exp(log_prior_E), strict=True)},
        "mean_posterior": {n: float(p) for n, p in zip(members, mixed.mean_posterior, strict=True)},
    }
