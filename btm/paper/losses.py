"""Every row of the tables as nats of each test document, so that rows compare by document.

All of it comes from cached scores: no model runs here. Free parameters of a row (priors, α, β) are
fitted on valid splits, never on the test split that is reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from btm import steps
from btm.config.ensemble import EnsembleConfig
from btm.data.shards import Shard, Suite
from btm.ensemble import priors
from btm.ensemble.rule import ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text
from btm.forest import ELM, Forest
from btm.forest.card import Card
from btm.paper.grow import AVERAGED, average_name
from btm.paper.studies import FOREST, Study
from btm.steps import score_cache

PAPER = "forest: cached prior (paper)"
DENSE = "dense"
TRACKING = "forest: tracking"
GATED = "forest: gated"


class DocumentNats(TypedDict):
    """The nats of one test document under one row and seed."""

    seed: int
    row: str
    group: str
    models: int
    domain: str
    novel: bool
    document: int
    tokens: int
    bytes: int
    nats: float


@dataclass(frozen=True)
class Row:
    """A row of the tables; `models` is how many models of the same size run for each token."""

    name: str
    group: str
    models: int


@dataclass(frozen=True)
class Grown:
    """A grown study, with the scores of its ELMs on the tokens of its suite."""

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
        """Read log p of every token of `shard` by some of its ELMs, (E, S, T)."""
        scores = score_cache.scores_of(self.study.config, self.forest)
        return score_cache.stack(scores, shard, list(elms))

    def tokens(self, shard: Shard) -> int:
        """Count the tokens of `shard` that are scored."""
        return shard.head(self.study.config.score.max_tokens)[0]


def rules(config: EnsembleConfig, experts: int) -> dict[Row, EnsembleConfig]:
    """List the posteriors that are compared: the whole family, then fewer and fewer experts."""
    plain = replace(config, top_k=0, alpha=None, beta=None, gate=None, fit="domain", carry="window")
    bayes = replace(plain, rule="bayes")
    tracking = replace(plain, rule="tracking", prior="em")
    gated = replace(plain, rule="gated", prior="token", carry="document")
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
        "forest: tracking, token prior": replace(tracking, prior="token", carry="document"),
        "forest: gated, each window anew": replace(gated, carry="window"),
        GATED: gated,
        f"{GATED}, fitted once": replace(gated, fit="forest"),
    }
    rows = {Row(name, "posterior", experts): rule for name, rule in family.items()}
    for k in (4, 2, 1):
        if k < experts:
            rows[Row(f"{GATED}, top-{k}", "top-k", k)] = replace(gated, top_k=k)
    return rows


def measure(studies: Sequence[Study]) -> Iterator[DocumentNats]:
    """Yield a record for each main study, row and test document."""
    for study in studies:
        if study.kind in ("fraction", "rounds"):
            continue
        grown = Grown(study)
        for row, domain, logp_T in _rows(grown):
            yield from _records(grown, row, domain, logp_T)


def _rows(grown: Grown) -> Iterator[tuple[Row, str, NDArray[np.float64]]]:
    """Yield every row of a study with its log-probabilities on every evaluated domain."""
    kind = grown.study.kind
    domains = evaluated(grown)
    if kind.startswith("dense"):
        for domain in domains:
            yield Row(kind, "one model", 1), domain, alone(grown, domain, grown.forest.elms()[0])
        return
    if kind == FOREST:
        seed = grown.forest[_seed(grown)]
        for domain in domains:
            single = {
                "seed": alone(grown, domain, seed),
                "average: uniform": averaged(grown, domain, "uniform"),
                "average: argmax": argmax(grown, domain),
            }
            for how in AVERAGED:
                single[f"average: {how}"] = averaged(grown, domain, average_name(how, domain))
            for name, logp_T in single.items():
                yield Row(name, "one model", 1), domain, logp_T
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
    """List the domains of the tables: those of the original suite, even for random parts."""
    return grown.study.cycle.eval.domains or grown.suite.domains()


def mixed(
    grown: Grown, rule: EnsembleConfig, domains: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Compute the ensemble's log-probability of every test token, by domain."""
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
    text = Text.of(test, grown.tokens(test))
    return fitted.mix(logp_EST, scores.log_prior, grown.tokens(test), text).logp


def _valid_scores(grown: Grown, rule: EnsembleConfig, shard: Shard) -> ValidScores:
    """Stack the experts' scores of a valid split, with the prior that the rule fits on them."""
    logp_EST = grown.scores(shard, grown.experts)
    tokens = grown.tokens(shard)
    log_prior_E = rule_of(rule).fit_prior(logp_EST, tokens)
    return ValidScores(logp_EST, log_prior_E, tokens, Text.of(shard, tokens))


def alone(grown: Grown, domain: str, elm: ELM) -> NDArray[np.float64]:
    """Read one ELM's log-probability of every test token of a domain."""
    shard = grown.suite.shard(domain, grown.study.config.eval.split)
    return grown.scores(shard, [elm]).reshape(-1)[: grown.tokens(shard)].astype(np.float64)


def averaged(grown: Grown, domain: str, name: str) -> NDArray[np.float64]:
    """Read the log-probability of every test token of a domain by an average of the experts."""
    folder = grown.forest.paths.average(name)
    return alone(grown, domain, ELM(folder.path, Card.read(folder.card)))


def argmax(grown: Grown, domain: str) -> NDArray[np.float64]:
    """Read the log-probabilities by the likeliest expert alone: an average with argmax weights."""
    valid = grown.suite.shard(domain, "valid")
    settings = replace(grown.study.config.ensemble, prior="cached", top_k=0)
    scores_EST = grown.scores(valid, grown.experts)
    prior_E = priors.fit_prior(scores_EST, settings, grown.tokens(valid))
    return alone(grown, domain, grown.experts[int(prior_E.argmax())])


def by_document(logp_T: NDArray[np.float64], shard: Shard) -> NDArray[np.float64]:
    """Sum the nats of each whole document at the start of `logp_T`, (D,)."""
    ends = np.cumsum(shard.documents[:, 0], dtype=np.int64)
    documents = int(np.searchsorted(ends, len(logp_T), side="right"))
    starts = np.concatenate([[0], ends[: documents - 1]])
    return -np.add.reduceat(logp_T, starts)


def _records(
    grown: Grown, row: Row, domain: str, logp_T: NDArray[np.float64]
) -> Iterator[DocumentNats]:
    shard = grown.suite.shard(domain, grown.study.config.eval.split)
    nats_D = by_document(logp_T, shard)
    # By the forest's domains, even for a baseline that was trained on other parts.
    trained = domain in grown.study.config.seed.domains
    for number, nats in enumerate(nats_D):
        tokens, size = (int(n) for n in shard.documents[number])
        yield {
            "seed": grown.study.seed,
            "row": row.name,
            "group": row.group,
            "models": row.models,
            "domain": domain,
            "novel": not trained,
            "document": number,
            "tokens": tokens,
            "bytes": size,
            "nats": float(nats),
        }


def _seed(grown: Grown) -> str:
    return grown.study.config.seed.name
