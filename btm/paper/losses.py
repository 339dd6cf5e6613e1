"""Every row of the tables as nats of each test document, so that rows can be compared document by
document.

All of it comes from cached scores: no model runs here. What a row leaves open (priors, α, β) is
fitted on valid splits, never on the test split that is reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm import steps
from btm.config.ensemble import EnsembleConfig
from btm.data.shards import Shard, Suite
from btm.ensemble import priors
from btm.ensemble.rule import ValidScores
from btm.ensemble.rules import rule_of
from btm.forest import ELM, Forest
from btm.forest.card import Card
from btm.paper.grow import AVERAGED, average_name
from btm.paper.studies import FOREST, Study
from btm.steps import score_cache

PAPER = "forest: cached prior (paper)"
DENSE = "dense"
TRACKING = "forest: tracking"
GATED = "forest: gated"


@dataclass(frozen=True)
class Row:
    """A row of the tables; `models` is how many models of the same size run for each token."""

    name: str
    group: str
    models: int


@dataclass(frozen=True)
class Grown:
    """A study that is grown, and what its ELMs give to the tokens of its suite."""

    study: Study

    @cached_property
    def forest(self) -> Forest:
        """Its forest."""
        return Forest(self.study.config.forest_root)

    @cached_property
    def suite(self) -> Suite:
        """The suite it was grown on."""
        return steps.open_suite(self.study.cycle)

    @cached_property
    def experts(self) -> list[ELM]:
        """The members of its ensemble."""
        return self.forest.experts()

    def scores(self, shard: Shard, elms: Sequence[ELM]) -> NDArray[np.float32]:
        """Return log p of every token of `shard` by some of its ELMs, shape (E, S, T)."""
        return score_cache.stack(
            score_cache.scores_of(self.study.config, self.forest), shard, list(elms)
        )

    def tokens(self, shard: Shard) -> int:
        """Return how many tokens of `shard` are scored."""
        return shard.head(self.study.config.score.max_tokens)[0]


def rules(config: EnsembleConfig, experts: int) -> dict[Row, EnsembleConfig]:
    """Return the posteriors that are compared: the family, then fewer and fewer experts."""
    plain = replace(config, top_k=0, alpha=None, beta=None, gate=None, fit="domain", carry=False)
    bayes = replace(plain, rule="bayes")
    tracking = replace(plain, rule="tracking", prior="em")
    gated = replace(plain, rule="gated", prior="token", carry=True)
    family = {
        "forest: simple average of probabilities": replace(plain, rule="simple", prior="uniform"),
        "forest: uniform prior": replace(bayes, prior="uniform"),
        "forest: updating prior": replace(bayes, prior="updating"),
        PAPER: replace(bayes, prior="cached"),
        "forest: em prior": replace(bayes, prior="em"),
        "forest: last token (released code)": replace(plain, rule="last_token", prior="cached"),
        "forest: fixed share": replace(plain, rule="fixed_share", prior="em"),
        TRACKING: tracking,
        "forest: tracking, fitted once": replace(tracking, fit="forest"),
        "forest: tracking, token prior": replace(tracking, prior="token", carry=True),
        "forest: gated, each window anew": replace(gated, carry=False),
        GATED: gated,
        f"{GATED}, fitted once": replace(gated, fit="forest"),
    }
    rows = {Row(name, "posterior", experts): rule for name, rule in family.items()}
    for k in (4, 2, 1):
        if k < experts:
            rows[Row(f"{GATED}, top-{k}", "top-k", k)] = replace(gated, top_k=k)
    return rows


def measure(studies: Sequence[Study]) -> Iterator[dict[str, Any]]:
    """Yield, for every study of the main rows, a record for each row and test document."""
    for study in studies:
        if study.kind in ("fraction", "rounds"):
            continue
        grown = Grown(study)
        for row, domain, logp_T in _rows(grown):
            yield from _records(grown, row, domain, logp_T)


def _rows(grown: Grown) -> Iterator[tuple[Row, str, NDArray[np.float64]]]:
    """Yield every row of a study with its log-probabilities on every domain that is evaluated."""
    kind = grown.study.kind
    domains = evaluated(grown)
    if kind.startswith("dense"):
        for domain in domains:
            yield Row(kind, "one model", 1), domain, alone(grown, domain, grown.forest.elms()[0])
        return
    if kind == FOREST:
        for domain in domains:
            yield (
                Row("seed", "one model", 1),
                domain,
                alone(grown, domain, grown.forest[_seed(grown)]),
            )
            yield (
                Row("average: uniform", "one model", 1),
                domain,
                averaged(grown, domain, "uniform"),
            )
            yield Row("average: argmax", "one model", 1), domain, argmax(grown, domain)
            for how in AVERAGED:
                name = average_name(how, domain)
                yield Row(f"average: {how}", "one model", 1), domain, averaged(grown, domain, name)
        chosen = rules(grown.study.config.ensemble, len(grown.experts))
    else:
        every = rules(grown.study.config.ensemble, len(grown.experts))
        names = {PAPER: f"{kind}: cached prior", GATED: f"{kind}: gated"}
        chosen = {
            replace(row, name=names[row.name], group=kind): rule
            for row, rule in every.items()
            if row.name in names
        }
    for row, rule in chosen.items():
        for domain, logp_T in mixed(grown, rule, domains).items():
            yield row, domain, logp_T


def evaluated(grown: Grown) -> list[str]:
    """Return the domains of the tables: those of the original suite, also where random parts were
    trained on.
    """
    return grown.study.cycle.eval.domains or grown.suite.domains()


def mixed(
    grown: Grown, rule: EnsembleConfig, domains: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the ensemble's log-probability of every test token, by domain."""
    fitted = rule
    if rule.fit == "forest":
        training = grown.suite.training_domains()
        valid = [grown.suite.shard(domain, "valid") for domain in training]
        fitted = rule_of(rule).fit([_valid_scores(grown, rule, shard) for shard in valid]).ensemble
    return {domain: _mixed(grown, fitted, domain) for domain in domains}


def _mixed(grown: Grown, rule: EnsembleConfig, domain: str) -> NDArray[np.float64]:
    valid = grown.suite.shard(domain, "valid")
    test = grown.suite.shard(domain, grown.study.config.eval.split)
    scores = _valid_scores(grown, rule, valid)
    fitted = rule_of(rule).fit([scores])
    logp_EST = grown.scores(test, grown.experts)
    return fitted.mix(logp_EST, scores.log_prior, grown.tokens(test), test.tokens).logp


def _valid_scores(grown: Grown, rule: EnsembleConfig, shard: Shard) -> ValidScores:
    """Stack the experts' scores of a valid split, with the prior that the rule fits on them."""
    logp_EST = grown.scores(shard, grown.experts)
    log_prior_E = rule_of(rule).fit_prior(logp_EST)
    return ValidScores(logp_EST, log_prior_E, grown.tokens(shard), shard.tokens)


def alone(grown: Grown, domain: str, elm: ELM) -> NDArray[np.float64]:
    """Return one ELM's log-probability of every test token of a domain."""
    shard = grown.suite.shard(domain, grown.study.config.eval.split)
    return grown.scores(shard, [elm]).reshape(-1)[: grown.tokens(shard)].astype(np.float64)


def averaged(grown: Grown, domain: str, name: str) -> NDArray[np.float64]:
    """Return what an average of the experts gives to the test tokens of a domain."""
    folder = grown.forest.root / "averages" / name
    return alone(grown, domain, ELM(folder, Card.read(folder / "card.json")))


def argmax(grown: Grown, domain: str) -> NDArray[np.float64]:
    """Return what the likeliest expert alone gives: the average whose weights are argmax."""
    valid = grown.suite.shard(domain, "valid")
    settings = replace(grown.study.config.ensemble, prior="cached", top_k=0)
    prior_E = priors.fit_prior(grown.scores(valid, grown.experts), settings)
    return alone(grown, domain, grown.experts[int(prior_E.argmax())])


def by_document(logp_T: NDArray[np.float64], shard: Shard) -> NDArray[np.float64]:
    """Return the nats of each whole document that `logp_T` begins with, shape (D,)."""
    ends = np.cumsum(shard.documents[:, 0], dtype=np.int64)
    documents = int(np.searchsorted(ends, len(logp_T), side="right"))
    starts = np.concatenate([[0], ends[: documents - 1]])
    return -np.add.reduceat(logp_T, starts)


def _records(
    grown: Grown, row: Row, domain: str, logp_T: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    shard = grown.suite.shard(domain, grown.study.config.eval.split)
    nats_D = by_document(logp_T, shard)
    facts = {"seed": grown.study.seed, "row": row.name, "group": row.group, "models": row.models}
    trained = (
        domain in grown.study.config.seed.domains
    )  # the forest's, also where a baseline has other parts
    for number, nats in enumerate(nats_D):
        tokens, size = (int(n) for n in shard.documents[number])
        yield facts | {
            "domain": domain,
            "novel": not trained,
            "document": number,
            "tokens": tokens,
            "bytes": size,
            "nats": float(nats),
        }


def _seed(grown: Grown) -> str:
    return grown.study.config.seed.name
