"""The models that a benchmark measures: the ensemble, under any rule, or one model alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from btm.config.bench import is_ensemble
from btm.config.choices import ENSEMBLE
from btm.config.ensemble import RULES, EnsembleConfig
from btm.config.schema import Config
from btm.config.validation import validate
from btm.data.ends import ends_of_folders
from btm.data.shards import Shard
from btm.ensemble.generate import keep
from btm.ensemble.posterior import Array
from btm.ensemble.router import Route, find_router
from btm.ensemble.rule import Rule
from btm.ensemble.rules import rule_of
from btm.errors import UserError, unknown
from btm.forest import Forest, Model, find_model
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.models.files import CONFIG
from btm.report import Reporter, quiet
from btm.steps import domain_weights
from btm.steps.beside import score_model

_CONTEXT = 2048  # tokens, of models that have positions without end; that of lm-eval's own hf


@dataclass(frozen=True)
class Subject:
    """A row of the table: E members under a rule; one model alone is an ensemble of one."""

    name: str  # forest, forest:gated, law, averages/deploy
    kind: str  # ensemble, or the kind of the model
    members: tuple[Model, ...]
    prior: tuple[float, ...]  # of each member; they sum to 1
    ensemble: EnsembleConfig  # with those settings fitted that were null, where a domain was named
    ends: frozenset[int]  # the tokens that end a text
    route: Route | None = None

    @property
    def router_sha256(self) -> str | None:
        """The hash of the router behind the route; None without one."""
        return None if self.route is None else self.route.router.sha256

    @property
    def rule(self) -> Rule:
        """The rule that weighs the members."""
        return rule_of(self.ensemble)

    @property
    def log_prior(self) -> Array:
        """The log prior, (E,)."""
        return np.log(np.array(self.prior))


def names_of(config: Config, forest: Forest) -> list[str]:
    """List the names of what is measured: those of bench.models, or the ensemble and each of its
    members.
    """
    if config.bench.models:
        return list(dict.fromkeys(config.bench.models))
    members = _members(config, forest)
    return [ENSEMBLE, *members] if len(members) > 1 else members


def find_all(config: Config, forest: Forest) -> dict[str, tuple[Model, ...]]:
    """Find the members of every row, without loading or fitting anything.

    `UserError` for a model that is not there, an unknown rule or one that does not fit the
    settings, a domain that is not prepared, and a context that a member has no positions for.
    """
    found = {name: _found(config, forest, name)[1] for name in names_of(config, forest)}
    for members in found.values():
        context_of(members, config.bench.context)
    if any(map(is_ensemble, found)):
        fitted_on(config)
    return found


def subject(config: Config, forest: Forest, name: str, reporter: Reporter = quiet) -> Subject:
    """Make one row ready: fit the ensemble's prior, and what its rule leaves open, on the valid
    split of ``domain=``.

    Without a domain every member has the same prior, and what is open stands at the value that
    changes nothing, a gate at its default.
    """
    chosen, members = _found(config, forest, name)
    ends = frozenset(ends_of_folders(forest.tokenizer, [model.path for model in members]).ids)
    if not is_ensemble(name):
        return alone(members[0], ends, name)
    prior, ensemble = dict.fromkeys((model.name for model in members), 1.0), chosen.ensemble
    if chosen.domain:
        for model in members:
            score_model(chosen, forest, model, fitted_on(chosen), reporter)
        suite = open_suites(chosen)
        prior, ensemble = domain_weights.fit_for(
            chosen, forest, suite, chosen.domain, list(members), reporter
        )
    needs_prior = rule_of(ensemble).needs_prior
    kept = keep(prior, ensemble.prior_top_k if needs_prior else 0)
    left = tuple(model for model in members if model.name in kept)
    route = domain_weights.route(chosen, forest, left, ends)
    weights = tuple(kept[model.name] for model in left)
    return Subject(name, "ensemble", left, weights, ensemble, ends, route)


def alone(model: Model, ends: frozenset[int], name: str = "") -> Subject:
    """Make a row of one model, by its own name if no other is given."""
    ensemble = EnsembleConfig(rule="bayes", prior="uniform")
    return Subject(name or model.name, model.kind, (model,), (1.0,), ensemble, ends)


def fitted_on(config: Config) -> list[Shard]:
    """List the shards that an ensemble is fitted on: the valid split of ``domain=``, or none."""
    return [open_suites(config).shard(config.domain, "valid")] if config.domain else []


def context_of(members: Sequence[Model], asked: int | None = None) -> int:
    """Return the tokens of context of these models: `asked`, or those that all have positions for.

    `UserError` if one has not so many.
    """
    limits = {
        model.name: causal_lm.context_limit(causal_lm.read_config(model.path / CONFIG))
        for model in members
    }
    known = {name: limit for name, limit in limits.items() if limit is not None}
    if not known:
        return asked or _CONTEXT
    name, least = min(known.items(), key=lambda item: item[1])
    if asked is not None and asked > least:
        raise UserError(f"bench.context={asked}: {name} has positions for {least} tokens")
    return asked or least


def _found(config: Config, forest: Forest, name: str) -> tuple[Config, tuple[Model, ...]]:
    """Return the settings under which a row is measured, and its members."""
    if not is_ensemble(name):
        return config, (find_model(forest, name),)
    names = _members(config, forest)
    if not names:
        raise UserError(f"{forest.root} has no expert yet: grow it with btm run")
    chosen = config
    if word := name.partition(":")[2]:
        chosen = _under(config, word)
    if rule_of(chosen.ensemble).needs_route:
        find_router(chosen)
    return chosen, tuple(find_model(forest, each) for each in names)


def _under(config: Config, word: str) -> Config:
    """Return the settings with another rule, checked as if they had been given so."""
    if word not in RULES:
        raise unknown("rule", word, RULES, f"bench.models=[{ENSEMBLE}:{word}]")
    prior = "uniform" if word == "router" else config.ensemble.prior  # a router asks for none
    chosen = replace(config.ensemble, rule=word, prior=prior)
    return validate(replace(config, ensemble=chosen))


def _members(config: Config, forest: Forest) -> list[str]:
    return config.ensemble.experts or [elm.name for elm in forest.experts()]
