"""The comparison of rows on the same documents: perplexities, ratios and their 95 % intervals.

A row's perplexity in a domain is exp of its nats per token there; over domains perplexities are
averaged arithmetically, as the paper's tables do, and a ratio is that of two such averages. The
intervals are those of a paired bootstrap: documents are drawn with replacement within each domain,
the same draw for all rows and seeds, and seeds are drawn too. So an interval covers what another
set of documents and another initialisation would change. Shapes: R rows, K seeds, G domains, D
documents of a domain, B resamples.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
SCOPES = ("in-domain", "novel", "all")


@dataclass(frozen=True)
class Nats:
    """Nats (R, K, D) and tokens (D,) of every document, by domain; a missing seed is NaN."""

    rows: list[str]
    seeds: list[int]
    novel: dict[str, bool]
    nats: dict[str, Array]
    tokens: dict[str, Array]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Nats":
        """Arrange the records of `losses.measure`; `ValueError` if rows differ in documents."""
        rows, seeds = list(dict.fromkeys(frame["row"])), sorted(set(frame["seed"]))
        novel, nats, tokens = {}, {}, {}
        for domain, part in frame.groupby("domain", sort=True):
            wide = part.pivot_table(
                index=["row", "seed"], columns="document", values="nats", aggfunc="sum"
            )
            full = wide.reindex(pd.MultiIndex.from_product([rows, seeds], names=["row", "seed"]))
            nats[str(domain)] = full.to_numpy(float).reshape(len(rows), len(seeds), -1)
            lengths = part.groupby("document")["tokens"].agg(["min", "max"])
            if (lengths["min"] != lengths["max"]).any():
                raise ValueError(f"{domain}: rows were measured on different documents")
            tokens[str(domain)] = lengths["min"].to_numpy(float)
            novel[str(domain)] = bool(part["novel"].iloc[0])
        return cls(rows, seeds, novel, nats, tokens)

    def domains(self, scope: str) -> list[str]:
        """List the domains of one of `SCOPES`."""
        if scope == "all":
            return list(self.novel)
        return [name for name, novel in self.novel.items() if novel == (scope == "novel")]


def perplexities(found: Nats, scope: str, counts: dict[str, Array] | None = None) -> Array:
    """Compute the mean perplexity over the domains of a scope, (R, K).

    Under `counts` (B, D) of documents the shape is (B, R, K).
    """
    domains = found.domains(scope)
    total: Array = np.zeros(())
    for domain in domains:
        if counts is None:
            nats, tokens = found.nats[domain].sum(axis=-1), found.tokens[domain].sum()
        else:
            nats = np.einsum("bd,rkd->brk", counts[domain], found.nats[domain])
            tokens = (counts[domain] @ found.tokens[domain])[:, None, None]
        total = total + np.exp(nats / tokens)
    return total / len(domains)


def draw(found: Nats, resamples: int, seed: int = 0) -> dict[str, Array]:
    """Draw how often each document occurs in each resample, by domain: (B, D)."""
    rng = np.random.default_rng(seed)
    counts = {}
    for domain, tokens in found.tokens.items():
        D = len(tokens)
        counts[domain] = rng.multinomial(D, np.full(D, 1 / D), resamples).astype(float)
    return counts


def ratios(found: Nats, to: str, resamples: int, seed: int = 0) -> pd.DataFrame:
    """Compare every row with row `to`: a record for each row and scope, with the 95 % interval.

    Only seeds that both rows have count. `spread` is the sample standard deviation of the ratio
    over seeds.
    """
    counts = draw(found, resamples, seed)  # one draw for all rows: that is what pairs them
    rng = np.random.default_rng(seed + 1)
    base = found.rows.index(to)
    records = []
    for scope in SCOPES:
        if not found.domains(scope):
            continue
        plain_RK = perplexities(found, scope)
        drawn_BRK = perplexities(found, scope, counts)
        for index, row in enumerate(found.rows):
            # A baseline may be grown under fewer seeds than the forest.
            kept = np.flatnonzero(np.isfinite(plain_RK[index]) & np.isfinite(plain_RK[base]))
            ratio_K = plain_RK[index, kept] / plain_RK[base, kept]
            ratio_BK = drawn_BRK[:, index, kept] / drawn_BRK[:, base, kept]
            seeds_BK = rng.integers(len(kept), size=ratio_BK.shape)
            resampled_B = np.take_along_axis(ratio_BK, seeds_BK, axis=1).mean(axis=1)
            low, high = np.quantile(resampled_B, [0.025, 0.975])
            records.append(
                {
                    "row": row,
                    "scope": scope,
                    "seeds": len(kept),
                    "perplexity": float(plain_RK[index, kept].mean()),
                    "ratio": float(ratio_K.mean()),
                    "low": float(low),
                    "high": float(high),
                    "spread": float(ratio_K.std(ddof=1)) if len(kept) > 1 else None,
                }
            )
    return pd.DataFrame(records)
