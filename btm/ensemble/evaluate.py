"""Evaluate an ensemble on a shard from cached scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, posterior
from btm.ensemble.fit import fit_prior, fit_rule
from btm.ensemble.mix import Route, mix


def numbers(nats: float, tokens: int, utf8_bytes: int) -> dict[str, float]:
    """Return the three ways to say a loss."""
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
    route: Route | None = None,
) -> dict[str, Any]:
    """Return the entry of evals/<name>.json for one shard of `size` (tokens, UTF-8 bytes).

    `names` are the ELMs of `logp_EST`, every one of them reported alone; `members` are those of the
    ensemble, and of `valid_EST`, on which its prior and what else `ensemble` leaves open are
    fitted. `ids` are the tokens of the shard and of valid, for the rules `gated` and `router`, and
    `route` is the latter's.
    """
    tokens, utf8_bytes = size
    rows = [names.index(member) for member in members]
    prior_E = fit_prior(valid_EST, ensemble)
    ids_N, valid_ids = (None, None) if ids is None else (ids[0], [ids[1]])
    ensemble = fit_rule([valid_EST], [prior_E], ensemble, [valid_tokens], valid_ids)
    mixed = mix(logp_EST[rows], prior_E, ensemble, tokens, ids_N, route)
    alone = -logp_EST.reshape(len(names), -1)[:, :tokens].sum(axis=1, dtype=np.float64)
    return {
        "tokens": tokens,
        "bytes": utf8_bytes,
        "ensemble": numbers(mixed.nats, tokens, utf8_bytes),
        "experts": {
            n: numbers(float(x), tokens, utf8_bytes) for n, x in zip(names, alone, strict=True)
        },
        **({} if ensemble.alpha is None else {"alpha": ensemble.alpha, "beta": ensemble.beta}),
        **(
            {"gate": gate.named(ensemble.gate)}
            if ensemble.rule == "gated" and ensemble.gate
            else {}
        ),
        "prior": {n: float(p) for n, p in zip(members, np.exp(prior_E), strict=True)},
        "mean_posterior": {n: float(p) for n, p in zip(members, mixed.mean_posterior, strict=True)},
    }
