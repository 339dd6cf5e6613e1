"""The models that a server answers by name: the ensemble, each of its rules, ELMs and averages.

`forest` is the ensemble under the rule of `ensemble.rule`; `forest:gated` is the same experts under
another rule; every ELM, average, student and mixture of experts has its own name.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from btm.config.schema import Config
from btm.data.ends import ends_of_folders
from btm.data.tokenizer import bos_of_copy, load_tokenizer, size_of
from btm.ensemble import generate as online
from btm.ensemble.posterior import Array
from btm.ensemble.rule import AnyRoute, OnlineWeights, Rule
from btm.ensemble.rules import RULES, rule_of
from btm.errors import UserError
from btm.forest import Forest, Model, find_model
from btm.forest.models import names_of_derived
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.models.files import CONFIG
from btm.steps import domain_weights

ENSEMBLE = "forest"
_log = logging.getLogger("btm.serve")


class UnknownModelError(UserError):
    """No model of that name is served."""


@dataclass(frozen=True)
class Served:
    """A model that answers: an ensemble of E members under a rule, or one model alone (E = 1)."""

    name: str
    kind: str  # ensemble, or the kind of the model: ELM, average, …
    members: tuple[Model, ...]  # E
    log_prior: Array  # (E,)
    rule: Rule
    start: int  # the token that begins a text: BOS or EOS
    ends: frozenset[int]  # the tokens that end one
    vocabulary: int  # tokens of the tokenizer
    context: int  # tokens that its members have positions for; 0: no limit
    route: AnyRoute | None = None
    loaded: str = ""  # what its members are loaded as (LoadConfig.word); empty: in float32

    def begin(self) -> OnlineWeights:
        """Begin a text: the weights of its members before the first token."""
        return self.rule.begin(self.log_prior, self.route)


class Catalog:
    """The models of one forest as they stand on disk; `refresh` looks again."""

    def __init__(self, config: Config) -> None:
        """Read what stands; `UserError` for a forest without a model."""
        self.config = config
        self.forest = Forest(config.forest_root)
        self.tokenizer = load_tokenizer(self.forest.tokenizer)
        bos = bos_of_copy(self.forest.tokenizer, self.tokenizer)
        self.vocabulary = size_of(self.tokenizer)
        self.start = int(self.tokenizer.eos_token_id) if bos is None else bos
        self._served: Mapping[str, Served] = {}
        self._said: set[str] = set()  # warnings
        self.refresh()

    def refresh(self) -> bool:
        """Look at the forest on disk again; tell whether any model came, went or changed."""
        found = {served.name: served for served in self._find()}
        if not found:
            raise UserError(f"{self.forest.root}: no model to serve yet")
        changed = {n: _shas(s) for n, s in found.items()} != {
            n: _shas(s) for n, s in self._served.items()
        }
        if changed:
            self._served = found
        return changed

    def __iter__(self) -> Iterator[Served]:
        """Yield every model that is served, ensembles first."""
        return iter(self._served.values())

    def find(self, name: str) -> Served:
        """Find a model by its name; `UnknownModelError` lists those there are."""
        if (served := self._served.get(name)) is None:
            raise UnknownModelError(
                f"no model {name!r} is served here; there are {', '.join(self._served)}"
            )
        return served

    def _find(self) -> list[Served]:
        forest = self.forest
        names = self.config.ensemble.experts or [elm.name for elm in forest.experts()]
        members = self._models(names)
        found = []
        if members:
            found.append(self._ensemble(ENSEMBLE, members, self.config))
            for word in RULES:
                chosen = replace(self.config.ensemble, rule=word)
                try:
                    config = replace(self.config, ensemble=chosen)
                    found.append(self._ensemble(f"{ENSEMBLE}:{word}", members, config))
                except UserError:  # the router, where none was made for these experts
                    continue
        alone = {model.name: model for model in members}
        for model in self._models([*forest.names(), *names_of_derived(forest)]):
            alone.setdefault(model.name, model)
        return found + [self._alone(model) for model in alone.values()]

    def _models(self, names: Iterable[str]) -> list[Model]:
        """Find models; while a server runs, one that is gone or unreadable is left out, and said
        once.
        """
        found = []
        for name in names:
            try:
                found.append(find_model(self.forest, name))
            except UserError as error:
                if not self._served:
                    raise
                if str(error) not in self._said:
                    _log.warning("not served any more: %s", error)
                    self._said.add(str(error))
        return found

    def _context(self, members: Iterable[Model]) -> int:
        """Return the most tokens that all members have positions for; 0: no limit."""
        configs = [causal_lm.read_config(model.path / CONFIG) for model in members]
        limits = [causal_lm.context_limit(config) for config in configs]
        return min((limit for limit in limits if limit), default=0)

    def _ensemble(self, name: str, members: list[Model], config: Config) -> Served:
        """Weigh the members by the prior of `domain`, or all alike, and keep the top-k by it."""
        rule = rule_of(config.ensemble)
        if rule.commit is not None and rule.needs_route:
            raise UserError("ensemble.rule=router: a route does not commit")
        prior, fitted = {model.name: 1.0 for model in members}, config.ensemble
        if config.domain:
            suite = open_suites(config)
            prior, fitted = domain_weights.fit_for(
                config, self.forest, suite, config.domain, members
            )
        top_k = config.ensemble.prior_top_k if rule.needs_prior else 0
        kept = online.keep(prior, top_k)
        members = [model for model in members if model.name in kept]
        ends = frozenset(
            ends_of_folders(self.forest.tokenizer, [model.path for model in members]).ids
        )
        route = domain_weights.route(config, self.forest, members, ends)
        log_prior_E = np.log(np.array([kept[model.name] for model in members]))
        return Served(
            name,
            "ensemble",
            tuple(members),
            log_prior_E,
            rule_of(fitted),
            self.start,
            ends,
            self.vocabulary,
            self._context(members),
            route,
            config.load.word,
        )

    def _alone(self, model: Model) -> Served:
        ends = frozenset(ends_of_folders(self.forest.tokenizer, [model.path]).ids)
        rule = rule_of(replace(self.config.ensemble, rule="bayes", commit=0, top_k=0))
        return Served(
            model.name,
            model.kind,
            (model,),
            np.zeros(1),
            rule,
            self.start,
            ends,
            self.vocabulary,
            self._context([model]),
            loaded=self.config.load.word,
        )


def _shas(served: Served) -> list[tuple[str, str]]:
    return [(model.name, model.sha256) for model in served.members]
