"""The ablations: one thing varied at a time, under the first seed.

Perplexities are relative to the dense LM of the same seed. Varied are the seed fraction, the
initialisation, the experts in the ensemble, the valid sequences behind the prior, and a second
round.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from btm.paper.losses import GATED, PAPER, Grown, alone, evaluated, mixed, rules
from btm.paper.studies import FOREST, Study

SEQUENCES = (1, 3, 10, 30, 100, 0)  # 0: all there are
_COMPARED = (PAPER, GATED)
Base = dict[str, float]  # the dense LM's perplexity by domain


class Ratio(TypedDict):
    """A row's mean perplexity over the domains of a scope, and its ratio to the dense LM's."""

    ablation: str
    value: str
    row: str
    scope: str
    perplexity: float
    ratio: float


def measure(studies: Sequence[Study]) -> Iterator[Ratio]:
    """Yield a record for each ablation, value, row and scope."""
    first = studies[0].seed
    grown = {study.name: Grown(study) for study in studies if study.seed == first}
    forest = next(g for g in grown.values() if g.study.kind == FOREST)
    dense = next(g for g in grown.values() if g.study.kind == "dense")
    trained = forest.study.config.seed.domains
    base = {
        domain: np.exp(-alone(dense, domain, dense.forest.elms()[0]).mean())
        for domain in evaluated(dense)
    }
    yield from _fractions(grown, forest, base, trained)
    yield from _numbers(forest, base, trained)
    yield from _sequences(forest, base, trained)
    yield from _rounds(grown, base, trained)


def _fractions(
    grown: dict[str, Grown], forest: Grown, base: Base, trained: list[str]
) -> Iterator[Ratio]:
    """Vary the share of the tokens that the seed phase takes."""
    shares = {f"{forest.study.config.paper.seed_fraction:g}": forest}
    shares |= {g.study.value: g for g in grown.values() if g.study.kind == "fraction"}
    for share in sorted(shares, key=float):
        every = rules(shares[share].study.config, len(shares[share].experts))
        for row, rule in every.items():
            if row.name in _COMPARED:
                logp = mixed(shares[share], rule, list(base))
                yield from _ratios("seed fraction", share, row.name, logp, base, trained)


def _numbers(forest: Grown, base: Base, trained: list[str]) -> Iterator[Ratio]:
    """Vary the number of experts that are kept, by prior."""
    experts = len(forest.experts)
    for k in range(1, experts + 1):
        for row, rule in rules(forest.study.config, experts).items():
            if row.name in _COMPARED:
                logp = mixed(forest, replace(rule, top_k=k), list(base))
                yield from _ratios("experts kept", str(k), row.name, logp, base, trained)


def _sequences(forest: Grown, base: Base, trained: list[str]) -> Iterator[Ratio]:
    """Vary the number of valid sequences that the prior is fitted on."""
    for count in SEQUENCES:
        for row, rule in rules(forest.study.config, len(forest.experts)).items():
            if row.name in _COMPARED:
                logp = mixed(forest, replace(rule, prior_sequences=count), list(base))
                label = str(count) if count else "all"
                yield from _ratios("valid sequences", label, row.name, logp, base, trained)


def _rounds(grown: dict[str, Grown], base: Base, trained: list[str]) -> Iterator[Ratio]:
    """Measure a second round: each new expert alone on its domain, then the ensemble of all.

    The dense LM was never trained on the new domains: schemes compare with one another here, not
    with it.
    """
    for each in (g for g in grown.values() if g.study.kind == "rounds"):
        added = each.study.config.paper.added
        new = {domain: alone(each, domain, each.forest[domain]) for domain in added}
        scheme = each.study.value
        yield from _ratios(
            "initialisation", scheme, "the new expert on its domain", new, base, added
        )
        for row, rule in rules(each.study.config, len(each.experts)).items():
            if row.name in _COMPARED:
                logp = mixed(each, rule, list(base))
                yield from _ratios("second round", scheme, row.name, logp, base, [*trained, *added])


def _ratios(
    ablation: str,
    value: str,
    row: str,
    logp: dict[str, NDArray[np.float64]],
    base: Base,
    trained: list[str],
) -> Iterator[Ratio]:
    """Yield the mean perplexity over the dense LM's, in-domain and novel, as the tables have it."""
    for scope in ("in-domain", "novel"):
        domains = [domain for domain in logp if (domain in trained) == (scope == "in-domain")]
        if domains:
            ours = np.mean([np.exp(-logp[domain].mean()) for domain in domains])
            theirs = np.mean([base[domain] for domain in domains])
            yield {
                "ablation": ablation,
                "value": value,
                "row": row,
                "scope": scope,
                "perplexity": float(ours),
                "ratio": float(ours / theirs),
            }
