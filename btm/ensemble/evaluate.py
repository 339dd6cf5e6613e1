"""The evaluation of an ensemble on a shard from cached scores, in numpy alone.

Shapes: E experts, S windows, T tokens of a window. Scores are log p(x_t | x_<t, D=j) in nats.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import cache, posterior
from btm.ensemble.posterior import Array
from btm.ensemble.rule import AnyRoute, ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text, resets
from btm.system.json_files import Json


def numbers(nats: float, tokens: int, utf8_bytes: int) -> dict[str, float]:
    """Give a loss as nats per token, perplexity and bits per byte."""
    return {
        "nats_per_token": nats / tokens,
        "perplexity": posterior.perplexity(nats / tokens),
        "bits_per_byte": posterior.bits_per_byte(nats, utf8_bytes),
    }


@dataclass(frozen=True)
class Scored:
    """A shard, and the scores of several models on it."""

    names: list[str]  # of the models, (E,)
    logp: NDArray[np.float32]  # (E, S, T)
    size: tuple[int, int]  # tokens and UTF-8 bytes that are real; the rest pads the last window
    text: Text | None = None  # for rules that read tokens, carry=document and a cache
    given: int = 0  # of the real tokens those no loss is taken of: each document's BOS, prompts

    @property
    def tokens(self) -> int:
        """The number of scores that are real."""
        return self.size[0]

    def nats(self, logp_N: Array) -> float:
        """Sum the loss of the tokens that count, of log p of all that are real."""
        if self.text is not None and self.text.predicted is not None:
            logp_N = logp_N[self.text.predicted]
        return -float(logp_N.sum())

    @property
    def counted(self) -> tuple[int, int]:
        """The tokens that losses are averaged over, and UTF-8 bytes."""
        return self.size[0] - self.given, self.size[1]

    def of(self, names: list[str]) -> "Scored":
        """Keep the models called `names` alone, in that order."""
        rows = [self.names.index(name) for name in names]
        return replace(self, names=names, logp=self.logp[rows])

    def alone(self, name: str) -> Array:
        """Read log p of each token by one model, (N,)."""
        flat = self.logp[self.names.index(name)].reshape(-1)[: self.tokens]
        return flat.astype(np.float64)


def shard_result(
    test: Scored,
    members: list[str],
    valid: Scored,
    ensemble: EnsembleConfig,
    route: AnyRoute | None = None,
    by_text_alone: EnsembleConfig | None = None,
) -> Json:
    """Compute the entry of evals/<name>.json for one shard.

    Every model of `test` is reported alone; `members` are those of the ensemble. Its prior and what
    else `ensemble` leaves open are fitted on `valid`, which has the members' scores, and those of
    all models if there is a cache: its weights are fitted for each row by itself. `by_text_alone`
    are settings that leave nothing open, under which no text of this domain is fitted on.
    """
    theirs = valid.of(members)
    rule = rule_of(ensemble)
    log_prior_E = rule.fit_prior(theirs.logp, theirs.tokens)
    rule = rule.fit([ValidScores(theirs.logp, log_prior_E, theirs.tokens, theirs.text)])
    mixed = rule.mix(test.of(members).logp, log_prior_E, test.tokens, test.text, route)
    weights: Json = {}
    ensemble_nats = test.nats(mixed.logp)
    if ensemble.cache != "none":
        held_out = rule.mix(theirs.logp, log_prior_E, theirs.tokens, theirs.text, route)
        ensemble_nats, weights = cached_nats(test, mixed.logp, valid, held_out.logp, ensemble)
    return {
        "tokens": test.counted[0],
        "bytes": test.size[1],
        "ensemble": numbers(ensemble_nats, *test.counted)
        | _experts_run(test.of(members), mixed.experts_run, ensemble),
        **({} if by_text_alone is None else _by_text_alone(test.of(members), by_text_alone)),
        "experts": {name: row_alone(test, valid, name, ensemble) for name in test.names},
        **rule.report(),
        **weights,
        "prior": {n: float(p) for n, p in zip(members, np.exp(log_prior_E), strict=True)},
        "mean_posterior": {n: float(p) for n, p in zip(members, mixed.mean_posterior, strict=True)},
    }


def _experts_run(test: Scored, counted: float | None, ensemble: EnsembleConfig) -> dict[str, float]:
    """Count the experts that are run for a token, where that changes within a context."""
    if counted is not None:
        return {"experts_run": counted}
    commit = rule_of(ensemble).commit
    if commit is None:
        return {}
    begins_N = resets(ensemble.carry, test.tokens, test.logp.shape[2], test.text)
    return {"experts_run": commit.experts_run(begins_N, len(test.names))}


def _by_text_alone(test: Scored, ensemble: EnsembleConfig) -> Json:
    """Compute the numbers of an ensemble that begins from a uniform prior."""
    log_prior_E = posterior.uniform_prior(len(test.names))
    mixed = rule_of(ensemble).mix(test.logp, log_prior_E, test.tokens, test.text)
    return {"by_text_alone": numbers(test.nats(mixed.logp), *test.counted)}


def row_alone(test: Scored, valid: Scored, name: str, ensemble: EnsembleConfig) -> Json:
    """Compute the numbers of one model alone, with the cache where `ensemble` has one."""
    logp_N = test.alone(name)
    if ensemble.cache == "none":
        return numbers(test.nats(logp_N), *test.counted)
    nats, weights = cached_nats(test, logp_N, valid, valid.alone(name), ensemble)
    return {**numbers(nats, *test.counted), **weights}


def cached_nats(
    test: Scored, logp_N: Array, valid: Scored, valid_logp_N: Array, ensemble: EnsembleConfig
) -> tuple[float, Json]:
    """Mix a row with an n-gram cache that is fitted on `valid`; return its nats and the weights."""
    weights = cache.fit([_read(valid, valid_logp_N, ensemble)])
    nats = test.nats(cache.mix(_read(test, logp_N, ensemble), weights))
    return nats, {"cache": cache.named(weights)}


def _read(scored: Scored, logp_N: Array, ensemble: EnsembleConfig) -> cache.Read:
    if scored.text is None:
        raise ValueError("ensemble.cache=ngram needs the tokens beside their scores")
    window = scored.logp.shape[2]
    begins_N = resets(ensemble.carry, scored.tokens, window, scored.text)
    return cache.Read(logp_N, scored.text.ids[: scored.tokens], begins_N)
