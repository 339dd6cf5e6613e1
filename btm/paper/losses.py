"""Every row of the tables as nats of each test document, so that rows compare by document.

All of it comes from cached scores: no model runs here. Free parameters of a row (priors, α, β) are
fitted on valid splits, never on the test split that is reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from btm import steps
from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.ensemble import cache, priors
from btm.ensemble.posterior import Array
from btm.ensemble.rule import ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text, resets
from btm.forest import ELM, Forest
from btm.forest.card import Card
from btm.forest.paths import CARD
from btm.paper import one_model
from btm.paper.grow import AVERAGED, average_name
from btm.paper.studies import FOREST, ONE_MODEL, Study
from btm.steps import score_cache

PAPER = "forest: cached prior (paper)"
DENSE = "dense"
TRACKING = "forest: tracking"
GATED = "forest: gated"
CACHE, CARRIED = " + cache", ", carried within documents"
# The memory of a row: what begins it anew. The updating prior moves on through a whole split.
WINDOW, DOCUMENT, SPLIT = "window", "document", "split"


class DocumentNats(TypedDict):
    """The nats of one test document under one row and seed."""

    seed: int
    row: str
    group: str
    memory: str
    models: float
    domain: str
    novel: bool
    document: int
    tokens: int
    bytes: int
    nats: float


@dataclass(frozen=True)
class Row:
    """A row of the tables; `models` is how many models of the same size run for each token, on the
    average of a whole window.

    `memory` is what a row remembers beyond the models' context: nothing, as it is begun anew in
    each `window`, or what it read of a `document`; and whether that has an n-gram cache.
    """

    name: str
    group: str
    models: float
    memory: str = WINDOW


def memory(carry: str, cache: str) -> str:
    """Name the memory of a row, from the keys of `EnsembleConfig`."""
    return carry if cache == "none" else f"{carry}{CACHE}"


def _memory_of(rule: EnsembleConfig) -> str:
    return SPLIT if rule.prior == "updating" else memory(rule.carry, rule.cache)


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

    def text(self, shard: Shard) -> Text:
        """Read the tokens of `shard` that are scored."""
        return Text.of(shard, self.tokens(shard))


def rules(config: Config, experts: int) -> dict[Row, EnsembleConfig]:
    """List the posteriors that are compared: the whole family, then fewer and fewer experts, by the
    prior or once they have read the beginning of a window.

    All of them begin each window anew, as the dense LM does, but those that say what they carry.
    """
    plain = replace(
        config.ensemble,
        top_k=0,
        commit=0,
        alpha=None,
        beta=None,
        gate=None,
        fit="domain",
        cache="none",
    )
    plain = replace(plain, carry="window")
    bayes = replace(plain, rule="bayes")
    tracking = replace(plain, rule="tracking", prior="em")
    gated = replace(plain, rule="gated", prior="token")
    family = {
        "forest: simple average of probabilities": replace(plain, rule="simple", prior="uniform"),
        "forest: uniform prior": replace(bayes, prior="uniform"),
        "forest: updating prior": replace(bayes, prior="updating"),
        PAPER: replace(bayes, prior="cached"),
        "forest: em prior": replace(bayes, prior="em"),
        "forest: last token (released code)": replace(plain, rule="last_token", prior="cached"),
        "forest: fixed share": replace(plain, rule="fixed_share", prior="em"),
        TRACKING: tracking,
        f"{TRACKING}, fitted once": replace(tracking, fit="forest"),
        f"{TRACKING}, token prior": replace(tracking, prior="token"),
        GATED: gated,
        f"{GATED}, fitted once": replace(gated, fit="forest"),
        # Nothing of the domain that is evaluated is read: no prior either.
        f"{GATED}, uniform prior, fitted once": replace(gated, prior="uniform", fit="forest"),
        f"{GATED}{CARRIED}": replace(gated, carry="document"),
        f"{GATED}{CACHE}": replace(gated, cache="ngram"),
        f"{GATED}{CACHE}{CARRIED}": replace(gated, carry="document", cache="ngram"),
    }
    rows = {
        Row(name, "posterior", experts, _memory_of(rule)): rule for name, rule in family.items()
    }
    for k in (4, 2, 1):
        if k < experts:
            rows[Row(f"{GATED}, top-{k}", "top-k", k)] = replace(gated, top_k=k)
    window = config.window
    for tokens, k in product((window // 8, window // 4), (2, 1)):
        if tokens and k < experts:
            run = (experts * tokens + k * (window - tokens)) / window
            name = f"{GATED}, top-{k} after {tokens} tokens"
            rows[Row(name, "commit", run)] = replace(gated, commit=tokens, top_k=k)
    return rows


def measure(studies: Sequence[Study]) -> Iterator[DocumentNats]:
    """Yield a record for each main study, row and test document."""
    for study in studies:
        if study.kind in ("fraction", "rounds"):
            continue
        grown = Grown(study)
        for row, domain, logp_T in _rows(grown):
            yield from _records(grown, row, domain, logp_T)


def _rows(grown: Grown) -> Iterator[tuple[Row, str, Array]]:
    """Yield every row of a study with its log-probabilities on every evaluated domain."""
    kind = grown.study.kind
    domains = evaluated(grown)
    if kind.startswith("dense"):
        yield from _dense(grown, domains)
        return
    if kind == ONE_MODEL:
        yield from _made(grown, domains)
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
        chosen = rules(grown.study.config, len(grown.experts))
    else:
        every = rules(grown.study.config, len(grown.experts))
        names = {PAPER: f"{kind}: cached prior", GATED: f"{kind}: gated"}
        chosen = {
            replace(row, name=names[row.name], group=kind): rule
            for row, rule in every.items()
            if row.name in names
        }
    for row, rule in chosen.items():
        for domain, logp_T in mixed(grown, rule, domains).items():
            yield row, domain, logp_T


def _made(grown: Grown, domains: Sequence[str]) -> Iterator[tuple[Row, str, Array]]:
    """Yield the rows of the students and mixtures of experts that were made of a forest."""
    for name, model in one_model.models(grown.forest).items():
        run = one_model.models_run(grown.study.config, grown.forest, model)
        for domain in domains:
            logp_T = alone(grown, domain, ELM(model.path, Card.read(model.path / CARD)))
            yield Row(name, "one model", round(run, 3)), domain, logp_T


def _dense(grown: Grown, domains: Sequence[str]) -> Iterator[tuple[Row, str, Array]]:
    """Yield the rows of a dense LM; beside the main one's those with the forest's n-gram cache."""
    kind, (elm,) = grown.study.kind, grown.forest.elms()
    for domain in domains:
        yield Row(kind, "one model", 1), domain, alone(grown, domain, elm)
        if kind != DENSE:
            continue
        for carry, suffix in ((WINDOW, ""), (DOCUMENT, CARRIED)):
            row = Row(f"{kind}{CACHE}{suffix}", "one model", 1, memory(carry, "ngram"))
            valid, test = (
                _read(grown, domain, split, alone(grown, domain, elm, split), carry)
                for split in ("valid", grown.study.config.eval.split)
            )
            yield row, domain, cache.mix(test, cache.fit([valid]))


def evaluated(grown: Grown) -> list[str]:
    """List the domains of the tables: those of the original suite, even for random parts."""
    return grown.study.cycle.eval.domains or grown.suite.domains()


def mixed(grown: Grown, rule: EnsembleConfig, domains: Sequence[str]) -> dict[str, Array]:
    """Compute the ensemble's log-probability of every test token, by domain."""
    fitted = rule
    if rule.fit == "forest":
        training = [domain for domain in grown.suite.training_domains() if domain in domains]
        valid = [grown.suite.shard(domain, "valid") for domain in training]
        fitted = rule_of(rule).fit([_valid_scores(grown, rule, shard) for shard in valid]).ensemble
    return {domain: _mixed(grown, fitted, domain) for domain in domains}


def _mixed(grown: Grown, rule: EnsembleConfig, domain: str) -> Array:
    valid = _valid_scores(grown, rule, grown.suite.shard(domain, "valid"))
    fitted = rule_of(rule).fit([valid])
    test = grown.suite.shard(domain, grown.study.config.eval.split)
    tokens, text = grown.tokens(test), grown.text(test)
    logp_N = fitted.mix(grown.scores(test, grown.experts), valid.log_prior, tokens, text).logp
    if rule.cache == "none":
        return logp_N
    held_out_N = fitted.mix(valid.logp, valid.log_prior, valid.tokens, valid.text).logp
    weights = cache.fit([_read(grown, domain, "valid", held_out_N, rule.carry)])
    return cache.mix(_read(grown, domain, test.split, logp_N, rule.carry), weights)


def _valid_scores(grown: Grown, rule: EnsembleConfig, shard: Shard) -> ValidScores:
    """Stack the experts' scores of a valid split, with the prior that the rule fits on them."""
    logp_EST = grown.scores(shard, grown.experts)
    tokens = grown.tokens(shard)
    log_prior_E = rule_of(rule).fit_prior(logp_EST, tokens)
    return ValidScores(logp_EST, log_prior_E, tokens, grown.text(shard))


def _read(grown: Grown, domain: str, split: str, logp_N: Array, carry: str) -> cache.Read:
    """Join a row's scores of a split with its tokens, for an n-gram cache."""
    text = grown.text(grown.suite.shard(domain, split))
    window = grown.study.config.window
    return cache.Read(logp_N, text.ids, resets(carry, len(logp_N), window, text))


def alone(grown: Grown, domain: str, elm: ELM, split: str = "") -> Array:
    """Read one ELM's log-probability of every token of a domain's test split, or of another."""
    shard = grown.suite.shard(domain, split or grown.study.config.eval.split)
    return grown.scores(shard, [elm]).reshape(-1)[: grown.tokens(shard)].astype(np.float64)


def averaged(grown: Grown, domain: str, name: str) -> Array:
    """Read the log-probability of every test token of a domain by an average of the experts."""
    folder = grown.forest.paths.average(name)
    return alone(grown, domain, ELM(folder.path, Card.read(folder.card)))


def argmax(grown: Grown, domain: str) -> Array:
    """Read the log-probabilities by the likeliest expert alone: an average with argmax weights."""
    valid = grown.suite.shard(domain, "valid")
    settings = replace(grown.study.config.ensemble, prior="cached", top_k=0)
    scores_EST = grown.scores(valid, grown.experts)
    prior_E = priors.fit_prior(scores_EST, settings, grown.tokens(valid))
    return alone(grown, domain, grown.experts[int(prior_E.argmax())])


def by_document(logp_T: Array, shard: Shard) -> Array:
    """Sum the nats of each whole document at the start of `logp_T`, (D,)."""
    ends = np.cumsum(shard.documents[:, 0], dtype=np.int64)
    documents = int(np.searchsorted(ends, len(logp_T), side="right"))
    starts = np.concatenate([[0], ends[: documents - 1]])
    return -np.add.reduceat(logp_T, starts)


def _records(grown: Grown, row: Row, domain: str, logp_T: Array) -> Iterator[DocumentNats]:
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
            "memory": row.memory,
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
