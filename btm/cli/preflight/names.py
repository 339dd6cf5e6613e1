"""Domains and ELMs that a command names: each stands, or will be made by the cycle before it is
needed.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from btm import steps
from btm.config.average import check_average_weights
from btm.config.checks import check_weights
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.ensemble.router import check_domains
from btm.ensemble.rules import rule_of
from btm.errors import UserError, unknown
from btm.forest import Forest, derived, settings, tombstone
from btm.forest.paths import AVERAGES
from btm.interop.remote import urls
from btm.models.average import METHODS
from btm.steps import conflicts
from btm.steps.baselines import DEMIX, SHARES_SEED
from btm.steps.baselines.ready import require_seed
from btm.steps.names import require_apart, require_own_forest


def rounds(config: Config) -> list[list[str]]:
    """Return the domains of each round of a cycle, from the source of the text: there may be no
    suite yet.

    A domain whose expert was removed is left out.
    """
    planned = config.run.rounds or [config.run.domains or preparation.training_domains(config.data)]
    removed = tombstone.names(Path(config.forest_root))
    kept = [[domain for domain in domains if domain not in removed] for domains in planned]
    return [domains for domains in kept if domains] if kept != planned else planned


def remote_of_push(config: Config) -> None:
    """Require a URL that a push can go to, and what is installed for it."""
    urls.read(config.to, "to")


def remote_of_pull(config: Config) -> None:
    """Require a URL that a pull can come from, and what is installed for it."""
    urls.read(config.imports.source, "from")


def seed_domains(config: Config) -> None:
    """Require the domains of the seed's mix."""
    _require_domains(config, {"seed.domains": config.seed.domains})


def domains_of_cycle(config: Config) -> None:
    """Require the domains of every round, of the seed and of the evaluation; none may be grown
    twice.
    """
    planned = config.run.rounds or [config.run.domains]
    flat = [domain for domains in planned for domain in domains]
    _require_domains(config, {"eval.domains": config.eval.domains})
    if config.baseline == "random_split":  # its parts are made for it
        return
    _require_domains(config, {"run": flat, "seed.domains": config.seed.domains})
    if len(set(flat)) < len(flat):
        raise UserError(f"run.rounds={planned}: a domain stands there twice")
    require_apart(config, [domain for domains in rounds(config) for domain in domains])
    check_domains(config, [domain for domains in rounds(config) for domain in domains])


def domains_of_paper(config: Config) -> None:
    """Require the domains that a second round adds."""
    _require_domains(config, {"paper.added": config.paper.added})


def elms_of_cycle(config: Config) -> None:
    """Require that the ELMs which are mixed and averaged at the end of a cycle stand or will be
    made by it.
    """
    made = _at_end(config)
    named: dict[str, Iterable[str]] = {
        "ensemble.experts": config.ensemble.experts,
        "average.experts": config.average.experts,
        "score.experts": config.score.experts,
        "average.base": [config.average.base] if config.average.base else [],
        "average.layers": {name for own in (config.average.layers or {}).values() for name in own},
    }
    for key, wanted in named.items():
        _require_elms(config, key, wanted, made)


def models_of_cycle(config: Config) -> None:
    """Require that what models= names will stand at the end of a cycle: a model of the forest, or
    a folder.
    """
    have = _at_end(config)
    if config.run.average:
        average = steps.average_of(config)[1]
        have |= {average, f"{AVERAGES}/{average}"}
    if Forest.stands(config.forest_root):
        for model in derived(Forest(config.forest_root)):
            have |= {model.name, f"{model.path.parent.name}/{model.path.name}"}
    for name in config.models:
        # FOREST:NAME is another forest's; a folder is looked into by the evaluation, in a process
        # with limits.
        if ":" not in name and not Path(name).is_dir() and name not in have:
            error = unknown("model", name, have, f"{config.forest_root} by the time it is needed")
            raise UserError(f"models: {error}")


def parents_of_cycle(config: Config) -> None:
    """Require that what every branch of a cycle descends from stands by then: the parent, or those
    of weights=.
    """
    if config.baseline is not None and config.baseline not in SHARES_SEED:
        return
    parents = {
        "weights": list(check_weights(config.weights)) if isinstance(config.weights, dict) else [],
        "parent": [config.parent] if config.parent and config.branch == "copy" else [],
    }
    standing = _standing(config)
    have = {*standing, config.seed.name}
    for domains in rounds(config):
        if set(domains) <= standing:
            continue  # nothing of this round is branched any more
        for key, wanted in parents.items():
            _require_elms(config, key, wanted, have)
        have |= set(domains)


def standing_of_cycle(config: Config) -> None:
    """Refuse to pass off ELMs that stand with other settings as those of a cycle."""
    conflicts.refuse(config, conflicts.of_cycle(config, rounds(config)))


def average_of_cycle(config: Config) -> None:
    """Require that the average at the end of a cycle can be made: of so many ELMs, for a domain
    that exists.
    """
    if not config.run.average:
        return
    how, _ = steps.average_of(config)
    if config.domain:
        _require_domains(config, {"domain": [str(config.domain)]})
    given: Collection[str] = config.average.experts
    if how == "weights":
        given = check_average_weights(config.weights, config.average)
    experts = {domain for domains in rounds(config) for domain in domains}
    count = len(given) or len(experts)
    least, most = (
        METHODS[config.average.method or "task_arithmetic"].models
        if how != "greedy_soup"
        else (1, None)
    )
    # More experts than those of this cycle may stand in the forest, so too few of them is told by
    # the average itself.
    if most is not None and count > most:
        raise UserError(
            f"average.method={config.average.method} takes {most} models beside its base, and at "
            "the end of this cycle "
            f"it would get {count}: give average.experts=[…], or run.average=false"
        )
    if given and len(given) < least:
        raise UserError(
            f"average.method={config.average.method} takes at least {least} models beside its "
            "base; "
            f"{len(given)} were given"
        )


def evaluation_of_cycle(config: Config) -> None:
    """Refuse to measure, at the end of a cycle, what was fitted on a valid split on that split."""
    if config.eval.split == "valid" and rule_of(config.ensemble).is_fitted:
        raise UserError(
            f"eval.split=valid: ensemble.prior={config.ensemble.prior} and "
            f"ensemble.rule={config.ensemble.rule} are "
            "fitted there, and would be measured on their own data: give another split, or "
            "ensemble=uniform"
        )


def forest_of_baseline(config: Config) -> None:
    """Refuse to grow a baseline in another forest, and a forest in a baseline."""
    require_own_forest(config)


def seed_of_baseline(config: Config) -> None:
    """Require the forest's own seed for a baseline that begins with it."""
    if config.baseline in SHARES_SEED:
        require_seed(config)


def _standing(config: Config) -> set[str]:
    """Return the ELMs that stand."""
    return set(Forest(config.forest_root).names()) if Forest.stands(config.forest_root) else set()


def _at_end(config: Config) -> set[str]:
    """Return the ELMs that stand when a cycle is done."""
    made = {config.seed.name, *(domain for domains in rounds(config) for domain in domains)}
    return _standing(config) | made | ({DEMIX} if config.baseline == DEMIX else set())


def _require_elms(config: Config, key: str, wanted: Iterable[str], have: Collection[str]) -> None:
    for name in wanted:
        if name not in have:
            tombstone.refuse(Path(config.forest_root), name)
            error = unknown("ELM", name, have, f"{config.forest_root} by the time it is needed")
            raise UserError(f"{key}: {error}")


def _require_domains(config: Config, named: dict[str, list[str]]) -> None:
    """Require that domains are the source's, or stand in the suite, whose own source may have lost
    them.
    """
    if not any(named.values()):
        return
    known = {*preparation.all_domains(config.data), *preparation.prepared(config.data)}
    if Forest.stands(config.forest_root):
        for suite in settings.read_suites(Path(config.forest_root)).values():
            known |= {
                *preparation.prepared(replace(config.data, out=suite.data["out"], name=suite.name))
            }
    for domains in named.values():
        for domain in domains:
            if domain not in known:
                raise unknown("domain", domain, known, str(config.data.root or "the demo suite"))
