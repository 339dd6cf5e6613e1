"""The comparison of rows on the same documents: perplexities, ratios and their 95 % intervals.

A row's perplexity in a domain is exp of its nats per token there; over domains perplexities are
averaged arithmetically, as the paper's tables do, and a ratio is that of two such averages: R_k
under seed k, and over seeds the geometric mean, exp ȳ with y_k = log R_k.

An interval says what other seeds and other documents would change. It has two levels, since three
seeds are too few to be drawn from (a resample of three has its spread understated by a third):

    Var = s² / K + Σ_g V_g,    exp(ȳ ± t(ν) √Var),
    ν = Var² / ( (s²/K)² / (K - 1) + Σ_g V_g² / (D_g - 1) ).

s² is the sample variance of y over the K seeds. V_g is the variance of ȳ over bootstrap resamples
of the D_g documents of domain g, the same resample for all rows and seeds: that is what pairs them.
A resample has D_g - 1 documents, so that its variance is unbiased where documents are few (Rao and
Wu, Journal of the American Statistical Association 83, 1988). t(ν) is the 97.5 % quantile of
Student's t at the degrees of freedom of Satterthwaite (Biometrics Bulletin 2, 1946). An interval is
never narrower than that of seeds alone, ȳ ± t(K - 1) s/√K. Under one seed there is none, nor where
a domain has one document. What seeds make of single documents counts in both parts, so the interval
is a little too wide rather than too narrow. It says nothing of other domains.

Nothing is drawn for a row: its interval depends on its own documents and those of the row it is
divided by, whatever other rows there are. Shapes: R rows, K seeds, G domains, D documents of a
domain, B resamples.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
SCOPES = ("in-domain", "novel", "all")
_ANGLES, _ENDLESS = 20_001, 1e4  # of `t_quantile`


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


def perplexities(found: Nats, scope: str) -> Array:
    """Compute the mean perplexity over the domains of a scope, (R, K)."""
    return np.mean([of_domain(found, domain) for domain in found.domains(scope)], axis=0)


def of_domain(found: Nats, domain: str, counts_BD: Array | None = None) -> Array:
    """Compute the perplexity in a domain, (R, K), or of each resample of its documents, (B, R, K).

    `counts_BD` is how often each document is in each resample.
    """
    nats_RKD, tokens_D = found.nats[domain], found.tokens[domain]
    if counts_BD is None:
        return np.exp(nats_RKD.sum(axis=-1) / tokens_D.sum())
    nats_BRK = np.einsum("bd,rkd->brk", counts_BD, nats_RKD, optimize=True)
    return np.exp(nats_BRK / (counts_BD @ tokens_D)[:, None, None])


def draw(found: Nats, resamples: int, seed: int = 0) -> dict[str, Array]:
    """Draw how often each document is in each resample of D - 1 documents, by domain: (B, D).

    A domain's draws depend on its name and documents, on no other domain. One document alone, which
    tells nothing of others, is drawn always.
    """
    counts = {}
    for domain, tokens in found.tokens.items():
        D = len(tokens)
        rng = np.random.default_rng([seed, zlib.crc32(domain.encode())])
        counts[domain] = rng.multinomial(max(1, D - 1), np.full(D, 1 / D), resamples).astype(float)
    return counts


def ratios(found: Nats, to: str, resamples: int, seed: int = 0) -> pd.DataFrame:
    """Compare every row with row `to`: a record for each row and scope, with the 95 % interval.

    Only seeds that both rows have count. `low` and `high` are NaN where there is no interval.
    `spread` is the sample standard deviation of the ratio over seeds.
    """
    counts = draw(found, resamples, seed)
    base = found.rows.index(to)
    records = []
    for scope in SCOPES:
        if not found.domains(scope):
            continue
        plain_RK = perplexities(found, scope)
        ratio_RK = plain_RK / plain_RK[base]
        variance_RG, freedom_G = document_variances(found, scope, base, counts)
        for index, row in enumerate(found.rows):
            # A baseline may be grown under fewer seeds than the forest.
            kept = np.flatnonzero(np.isfinite(ratio_RK[index]))
            ratio_K = ratio_RK[index, kept]
            centre = float(np.log(ratio_K).mean())
            half = half_width(np.log(ratio_K), variance_RG[index], freedom_G)
            records.append(
                {
                    "row": row,
                    "scope": scope,
                    "seeds": len(kept),
                    "perplexity": float(plain_RK[index, kept].mean()),
                    "ratio": float(np.exp(centre)),
                    "low": float(np.exp(centre - half)),
                    "high": float(np.exp(centre + half)),
                    "spread": float(ratio_K.std(ddof=1)) if len(kept) > 1 else None,
                }
            )
    return pd.DataFrame(records)


def document_variances(
    found: Nats, scope: str, base: int, counts: dict[str, Array]
) -> tuple[Array, Array]:
    """Compute V of the module's equation for each row and domain of a scope, (R, G), and D - 1,
    (G,).

    `base` is the index of the row that all are divided by. In each domain's turn its documents are
    resampled and those of the others stay.
    """
    domains = found.domains(scope)
    mean_RK = perplexities(found, scope)
    variances_GR = []
    for domain in domains:
        change_BRK = of_domain(found, domain, counts[domain]) - of_domain(found, domain)
        log_BRK = np.log(mean_RK + change_BRK / len(domains))
        log_ratio_BRK = log_BRK - log_BRK[:, [base]]
        known_RK = np.isfinite(mean_RK) & np.isfinite(mean_RK[base])
        sums_BR = np.where(known_RK, log_ratio_BRK, 0.0).sum(axis=2)
        variances_GR.append((sums_BR / known_RK.sum(axis=1)).var(axis=0, ddof=1))
    freedom_G = np.array([len(found.tokens[domain]) - 1 for domain in domains], float)
    return np.array(variances_GR).T, freedom_G


def half_width(log_ratio_K: Array, variance_G: Array, freedom_G: Array) -> float:
    """Compute half of the interval's width on the log scale: see the module.

    NaN for one seed, and where a domain has one document.
    """
    seeds = len(log_ratio_K)
    if seeds < 2 or not freedom_G.all():
        return float("nan")
    of_seeds = float(log_ratio_K.var(ddof=1)) / seeds
    parts = np.array([of_seeds, *variance_G])
    variance = float(parts.sum())
    if not variance:
        return 0.0
    freedom = variance**2 / float((parts**2 / np.array([seeds - 1, *freedom_G])).sum())
    both = t_quantile(freedom) * np.sqrt(variance)
    return float(max(both, t_quantile(seeds - 1) * np.sqrt(of_seeds)))


def t_quantile(freedom: float, within: float = 0.95) -> float:
    """Compute the t that a variable of Student's t lies within, on both sides, so often.

    With t = √ν tan θ its density is that of cos(θ)^(ν - 1), which is summed here numerically, to
    five digits for ν ≥ 1; so many degrees of freedom as `_ENDLESS` stand for all above.
    """
    freedom = min(freedom, _ENDLESS)
    angles = np.linspace(0, np.pi / 2, _ANGLES)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(within * share[-1], share, angles)
    return float(np.sqrt(freedom) * np.tan(angle))
