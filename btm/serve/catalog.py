"""The models that a server answers by name: the ensemble, each of its rules, ELMs and averages.

`forest` is the ensemble under the rule of `ensemble.rule`; `forest:gated` is the same experts under
another rule; `forest[law,code]` and `forest:gated[law,code]` are some of them alone; every ELM,
average, student and mixture of experts has its own name.
"""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from btm.config.choices import ENSEMBLE
from btm.config.remote_experts import remote_experts
from btm.config.schema import Config
from btm.data.ends import ends_of_folders
from btm.data.tokenizer import bos_of_copy, load_tokenizer, size_of
from btm.ensemble import generate as online
from btm.ensemble.course import Course
from btm.ensemble.posterior import Array
from btm.ensemble.rule import AnyRoute, Rule
from btm.ensemble.rules import RULES, rule_of
from btm.errors import UserError
from btm.forest import Forest, Model, find_model
from btm.forest.models import names_of_derived
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.models.files import CONFIG
from btm.serve.members.remote.experts import RemoteModel, Remotes
from btm.steps import domain_weights

_log = logging.getLogger("btm.serve")
_SOME = re.compile(r"(?P<whole>[^\[\]]+)\[(?P<names>[^\[\]]*)\]")  # forest:gated[law,code]
_MOST = 64  # ensembles of some experts that are kept made


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

    def begin(self) -> Course:
        """Begin a text: which members read it, and their weights before the first token."""
        return self.rule.course(self.log_prior, self.route)


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
        # A tokenizer of their own, since the engine's thread alone may use the other.
        mine = load_tokenizer(self.forest.tokenizer)
        self.remotes = Remotes(remote_experts(config.serve.remote), mine, self.start)
        self._served: Mapping[str, Served] = {}
        self._stands: list[Model] = []  # what the models that are served are made of
        self._members: list[Model] = []  # of the ensemble
        self._some: dict[str, Served] = {}  # ensembles of some of them that were asked for
        self._said: set[str] = set()  # warnings
        self.refresh()

    def refresh(self) -> bool:
        """Look at the forest on disk again; tell whether any model came, went or changed."""
        experts = self.config.ensemble.experts or [elm.name for elm in self.forest.experts()]
        members = self._models(name for name in experts if name not in self.remotes)
        others = self._models([*self.forest.names(), *names_of_derived(self.forest)])
        remote = self._remote([model.name for model in (*members, *others)])
        wanted = self.config.ensemble.experts
        members += [model for model in remote if not wanted or model.name in wanted]
        others += remote
        if not (members or others):
            raise UserError(f"{self.forest.root}: no model to serve yet")
        stands = [*members, *others]
        if stands == self._stands:
            return False
        # Of two of one name the first is served: the ensemble, a member, another model.
        found: dict[str, Served] = {}
        for served in (*self._ensembles(members), *map(self._alone, stands)):
            found.setdefault(served.name, served)
        self._served, self._stands, self._members, self._some = found, stands, members, {}
        return True

    def __iter__(self) -> Iterator[Served]:
        """Yield every model that is served, ensembles first."""
        return iter(self._served.values())

    def find(self, name: str) -> Served:
        """Find a model by its name; `UnknownModelError` lists those there are."""
        if (served := self._served.get(name)) is not None:
            return served
        if (asked := _SOME.fullmatch(name)) is not None:
            return self._of_some(asked["whole"], asked["names"].split(","))
        raise UnknownModelError(
            f"no model {name!r} is served here; there are {', '.join(self._served)}"
        )

    def _of_some(self, whole: str, names: list[str]) -> Served:
        """Make the ensemble of some experts, in the order of all, under the rule of `whole`."""
        if self.find(whole).kind != "ensemble":
            raise UnknownModelError(f"{whole} is one model; experts are chosen of an ensemble")
        stands, some = self._members, self._some  # a refresh replaces both
        known = [model.name for model in stands]
        for name in names:
            if name not in known:
                raise UnknownModelError(f"no expert {name!r} in {whole}; there are {_list(known)}")
            if names.count(name) > 1:
                raise UnknownModelError(f"{whole}[{_list(names)}]: {name} stands there twice")
        chosen = [model for model in stands if model.name in names]
        called = f"{whole}[{','.join(model.name for model in chosen)}]"
        if called not in some:
            made = self._ensemble(called, chosen, self._under(whole.partition(":")[2]))
            while len(some) >= _MOST:
                some.pop(next(iter(some)), None)
            some[called] = made
        return some[called]

    def _ensembles(self, members: list[Model]) -> Iterator[Served]:
        """Yield the ensemble under the rule that is set, and under each rule that it can have."""
        if not members:
            return
        yield self._ensemble(ENSEMBLE, members, self.config)
        for word in RULES:
            # A router may not have been made for these experts, or the ensemble commits.
            with suppress(UserError):
                yield self._ensemble(f"{ENSEMBLE}:{word}", members, self._under(word))

    def _under(self, rule: str) -> Config:
        """Return the settings with another rule; "": those that are set."""
        ensemble = replace(self.config.ensemble, rule=rule or self.config.ensemble.rule)
        return replace(self.config, ensemble=ensemble)

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

    def _remote(self, taken: Collection[str]) -> list[RemoteModel]:
        """List the remote experts; one whose name a model of the forest has is an error at first,
        and left out later.
        """
        found = []
        for model in self.remotes.models():
            if model.name not in taken:
                found.append(model)
            elif not self._served:
                raise UserError(f"serve.remote: {model.name} is a model of {self.forest.root} too")
        return found

    def _ensemble(self, name: str, members: list[Model], config: Config) -> Served:
        """Weigh the members by the prior of `domain`, or all alike, and keep the top-k by it."""
        rule = rule_of(config.ensemble)
        remote = [model.name for model in members if model.kind == "remote"]
        if remote and (config.domain or rule.needs_route):
            key = f"domain={config.domain}" if config.domain else "ensemble.rule=router"
            raise UserError(f"{key}: nothing is fitted for {remote[0]}, which another server runs")
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
        made = self._made(name, "ensemble", members, rule_of(fitted))
        route = domain_weights.route(config, self.forest, members, made.ends)
        log_prior_E = np.log(np.array([kept[model.name] for model in members]))
        return replace(made, log_prior=log_prior_E, route=route)

    def _alone(self, model: Model) -> Served:
        rule = rule_of(replace(self.config.ensemble, rule="bayes", commit=0, top_k=0, recall=False))
        return self._made(model.name, model.kind, [model], rule)

    def _made(self, name: str, kind: str, members: list[Model], rule: Rule) -> Served:
        """Make a model that answers, whose members all weigh the same."""
        folders = [model.path for model in members if not isinstance(model, RemoteModel)]
        limits: list[int | None] = [
            model.context for model in members if isinstance(model, RemoteModel)
        ]
        limits += [
            causal_lm.context_limit(causal_lm.read_config(each / CONFIG)) for each in folders
        ]
        return Served(
            name=name,
            kind=kind,
            members=tuple(members),
            log_prior=np.full(len(members), -np.log(len(members))),
            rule=rule,
            start=self.start,
            ends=frozenset(ends_of_folders(self.forest.tokenizer, folders).ids),
            vocabulary=self.vocabulary,
            context=min((limit for limit in limits if limit), default=0),
            loaded=self.config.load.word,
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
