"""Remove what stands in a forest with other settings than a cycle asks for: ``btm run --regrow``.

The cycle then grows it anew. Each ELM that differs goes with all that descends from it, children
first, and its name is readmitted (btm/forest/removal.py). Killed at any moment, the same command
goes on: a tombstone with the reason `REASON` waits for its name to be readmitted.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from btm.config import identity
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.errors import UserError, first_of
from btm.forest import Forest, removal, tombstone
from btm.forest.lineage import BRANCH, DERIVED, ELM
from btm.forest.tombstone import Heir
from btm.report import Reporter, quiet
from btm.steps import conflicts, standing
from btm.steps.grow import rounds
from btm.steps.plan import Plan
from btm.system import durable
from btm.train import checkpoint, phase, resume

REASON = "grown anew with other settings"


@dataclass(frozen=True)
class _Model:
    """A model or a branch that goes, and why."""

    heir: Heir
    why: str


def regrow(config: Config, suite: Suite, reporter: Reporter = quiet) -> None:
    """Remove what stands of a cycle with other settings or of other text, and free its names.

    Raises `UserError`, before anything is removed, where something would not come back: another
    architecture needs another forest, and an ELM that the cycle does not make stays.
    """
    if not Forest.stands(config.forest_root):
        return
    forest = Forest(config.forest_root)
    _readmit(forest)  # of a command that was killed
    found = _differing(config, suite, forest)
    removal.require_idle(forest, [model.heir.name for model in found])
    for model in reversed(found):
        reporter.line(f"removing {model.heir.name}: {model.why}")
        if model.heir.kind == ELM:
            removal.remove(forest, model.heir.name, reason=REASON)
        elif model.heir.kind in DERIVED:
            removal.remove_derived(forest, f"{DERIVED[model.heir.kind]}/{model.heir.name}")
        else:
            folder = durable.scratch_folder(forest.paths.branch(model.heir.name).parent)
            removal.discard_branch(forest, folder, model.heir.name)
            removal.empty(folder)  # no branch was there any more
    _readmit(forest)


def plan_of_regrow(config: Config, suite: Suite) -> list[Plan]:
    """Plan `regrow`: a row for each model that goes, parents first."""
    if not Forest.stands(config.forest_root):
        return []
    found = _differing(config, suite, Forest(config.forest_root))
    return [Plan("remove", model.heir.name, f"remove it: {model.why}") for model in found]


def _differing(config: Config, suite: Suite, forest: Forest) -> list[_Model]:
    """Find what differs from what `config` asks for, and what descends from that, parents first."""
    planned = rounds(config, suite)
    differing = conflicts.of_cycle(config, planned)
    if conflicts.is_of_another_architecture(differing):
        conflicts.refuse(config, differing)
    whys = {name: identity.said({name: found}) for name, found in differing.items()}
    made = {config.seed.name, *(domain for each in planned for domain in each)}
    for name in sorted(made & set(forest.names()) - whys.keys()):
        if standing.has_lost_text(forest, suite, name):
            whys[name] = "some of the text that it was trained on is no longer there"
    counted = replace(config.seed, steps=config.seed_steps(suite.training_domains()))
    for name in sorted(made - whys.keys()):
        if _is_begun_otherwise(replace(config, seed=counted), forest, name):
            whys[name] = "it is half trained with other settings"
    found: dict[str, _Model] = {}
    for name, why in whys.items():
        if name not in forest:
            found[name] = _Model(Heir(BRANCH, name, "", None, None), why)
            continue
        found[name] = _Model(Heir(ELM, name, forest[name].card.sha256, None, None), why)
        for heir in removal.consequences(forest, name).heirs:
            found.setdefault(heir.name, _Model(heir, f"it descends from {name}"))
    _require_made(found.values(), made)
    return _parents_first(found, forest)


def _is_begun_otherwise(config: Config, forest: Forest, name: str) -> bool:
    """Tell whether a training that was begun and left could not go on under `config`."""
    branch = forest.get_branch(name) if forest.has_branch(name) else None
    found = checkpoint.latest(branch.path) if branch and branch.result is None else None
    if branch is None or found is None:
        return False
    trainer = config.trainer if branch.parents else config.trainer.dense()
    try:
        course = phase.course_of(config, forest, branch)
        asked = resume.settings_of(trainer, course.schedule, course.steps)
        resume.require_same(found, checkpoint.read_state(found)["settings"], asked)
    except UserError:
        return True
    return False


def _parents_first(found: dict[str, _Model], forest: Forest) -> list[_Model]:
    """Order models by how many of the others they descend from."""
    ancestors = Counter(
        heir.name
        for name, model in found.items()
        if model.heir.kind == ELM
        for heir in removal.consequences(forest, name).heirs
    )
    return sorted(found.values(), key=lambda model: ancestors[model.heir.name])


def _require_made(found: Iterable[_Model], made: Collection[str]) -> None:
    """Raise `UserError` if ELMs or branches would go that the cycle does not make again."""
    others = [
        m.heir.name for m in found if m.heir.kind in (ELM, BRANCH) and m.heir.name not in made
    ]
    if others:
        raise UserError(
            f"--regrow: {first_of(others)} would go too, made of what differs, and this cycle does "
            "not grow it: name it in run.domains, or first btm remove "
            f"expert={others[0]}, or give another forest=DIR"
        )


def _readmit(forest: Forest) -> None:
    """Free the names of what was removed to be grown anew; first finish removals begun."""
    for name in sorted(tombstone.names(forest.root)):
        if tombstone.read(forest.paths.tombstone(name)).reason == REASON:
            removal.remove(forest, name)
            removal.readmit(forest, name)
