"""Compare what stands in a forest with what a command asks for under the same names.

What differs is refused before anything is trained, in one line that names each difference. Of an
ELM whose card has no settings, as those of an older btm, the parents alone are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from btm.config import identity
from btm.config.checks import check_weights
from btm.config.choices import SHARES_SEED
from btm.config.identity import Difference, Settings
from btm.config.schema import Config
from btm.errors import UserError, command
from btm.forest import Branch, Forest, tombstone
from btm.forest.card import Parent
from btm.models import causal_lm, configs
from btm.models.average import normalise
from btm.train import phase

_MODEL = "model.config."  # a forest has one architecture, so removing an ELM changes nothing
PARENTS = "parents"
Found = dict[str, list[Difference]]  # by the name of the ELM


@dataclass(frozen=True)
class _Model:
    """An ELM or a branch that stands, as far as it is compared."""

    folder: Branch  # an ELM's folder keeps the files of its branch
    settings: Settings
    parents: dict[str, Parent]
    steps: int | None  # of a training that is done
    source: str  # of an imported model


def settings_of(config: Config, forest: Forest, branch: Branch, precision: str = "") -> Settings:
    """Return the settings that the training of `branch` depends on, under `config`.

    `precision` is that of a training which is done, in place of trainer.precision.
    """
    if not branch.parents and config.seed.steps == 0:
        return identity.of_root(config, 0.0)  # its parameters are random, no rate trained them
    counted = replace(config, seed=replace(config.seed, steps=config.seed.steps or 0))
    try:
        course = phase.course_of(counted, forest, branch)
    except UserError:
        if config.trainer.carry != "continue":
            raise
        # Asked to continue where that is impossible: what stands has begun anew.
        fresh = replace(counted, trainer=replace(counted.trainer, carry="fresh"))
        lr, continues = phase.course_of(fresh, forest, branch).schedule.peak, True
    else:
        lr, continues = course.schedule.peak, course.continued is not None
    made = (
        identity.of_expert(config, lr, continues=continues)
        if branch.parents
        else identity.of_root(config, lr)
    )
    return made | ({"trainer.precision": precision} if precision else {})


def of_seed(config: Config, forest: Forest, domains: Sequence[str]) -> list[Difference]:
    """Compare the seed that stands, if one does, with what `config` asks for.

    `domains` are the training domains of the suite, which seed.steps=null counts. The seed of a
    baseline that begins with the forest's own is compared where it is copied
    (btm/steps/baselines/ready.py).
    """
    model = _model(forest, config.seed.name)
    if model is None or config.baseline in SHARES_SEED:
        return []
    source = config.seed.source
    if model.source or source:
        # One that was imported needs no word of its own once it stands.
        same = source is None or _same_folder(model.source, source)
        return [] if same else [Difference("seed.from", model.source or None, source)]
    found = _architecture(config, model.folder)
    if not model.settings:
        return found
    stands, asked = dict(model.settings), settings_of(config, forest, model.folder)
    if identity.STEPS in {*stands, *asked} and model.steps is not None:
        if identity.STEPS in asked:
            stands.setdefault(identity.STEPS, model.steps)
        else:
            asked[identity.STEPS] = config.seed_steps(list(domains))
    return found + identity.differences(stands, asked)


def of_expert(config: Config, forest: Forest, name: str, among: Sequence[str]) -> list[Difference]:
    """Compare the expert or branch `name`, if one stands, with one that `config` would make of the
    ELMs in `among`.
    """
    model = _model(forest, name)
    if model is None or model.source:
        return []
    found = _parents(config, forest, model, among)
    if not model.settings:
        return found
    asked = settings_of(config, forest, model.folder)
    if len(among) > 1:  # of one candidate any method makes a copy
        asked |= identity.of_branch(config)
    return found + identity.differences(model.settings, asked)


def of_training(config: Config, forest: Forest, branch: Branch) -> list[Difference]:
    """Compare the training of a branch, done or begun, with what `config` asks for."""
    result = branch.result
    if result is not None:
        stands = result.get("settings", {})
        asked = settings_of(config, forest, branch) if stands else {}
        return identity.differences(stands, asked)
    return []


def of_cycle(config: Config, rounds: Sequence[Sequence[str]]) -> Found:
    """Compare all that stands of a cycle of these `rounds`; {} where nothing differs."""
    if not Forest.stands(config.forest_root):
        return {}
    forest, domains = Forest(config.forest_root), [d for each in rounds for d in each]
    found: Found = {config.seed.name: of_seed(config, forest, domains)}
    earlier: list[str] = []
    for each in rounds:
        among = _candidates(config, forest, earlier)
        for domain in each:
            found[domain] = of_expert(config, forest, domain, among)
            if not any(differing.key == PARENTS for differing in found[domain]):
                found[domain] += _of_candidates(config, forest, domain, among)
        earlier += each
    return {name: differing for name, differing in found.items() if differing}


def _of_candidates(
    config: Config, forest: Forest, name: str, among: Sequence[str]
) -> list[Difference]:
    """Compare the ELMs among which an expert that stands was weighed with those of its round."""
    model = _model(forest, name)
    if model is None or model.source or config.weights is not None or config.branch == "copy":
        return []
    weighed = model.settings.get(identity.CANDIDATES)
    if weighed is None:
        return []  # it was not weighed, or a btm from before they were recorded did it
    removed = tombstone.names(forest.root)
    old, new = (sorted({*names} - removed) for names in (weighed, among))
    return [] if old == new else [Difference("candidates", ", ".join(old), ", ".join(new))]


def refuse(
    config: Config, found: Mapping[str, Sequence[Difference]], reproduction: Path | None = None
) -> None:
    """Raise `UserError` if `found` has differences; it names them and the ways out.

    `reproduction` is the folder of many forests that `btm paper` grows, whose names are STUDY/ELM.
    """
    found = {name: differing for name, differing in found.items() if differing}
    if not found:
        return
    names = list(found)
    place = reproduction or config.forest_root
    another = "another paper.out=DIR" if reproduction else "another forest=DIR"
    ways = ["give the settings that stand", f"or {another}"]
    if not reproduction and not is_of_another_architecture(found):
        remove = command("remove", forest=config.forest_root, expert=names[0])
        ways[1:] = [another]
        ways.append(
            f"or grow it anew: btm run with --regrow, or {remove} and the same with --readmit"
        )
    called = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise UserError(
        f"{place} has {called} of other settings: {identity.said(found)}; {', '.join(ways)}"
    )


def is_of_another_architecture(found: Mapping[str, Sequence[Difference]]) -> bool:
    """Tell whether models differ in architecture, which only another forest can have."""
    return any(each.key.startswith(_MODEL) for differing in found.values() for each in differing)


def _candidates(config: Config, forest: Forest, earlier: Sequence[str]) -> list[str]:
    """List the ELMs that the experts of a round may descend from."""
    if isinstance(config.weights, dict):
        return list(check_weights(config.weights))
    if config.branch == "copy":
        return [config.parent or config.seed.name]
    return list(earlier) or [config.seed.name]


def _model(forest: Forest, name: str) -> _Model | None:
    """Find the ELM or branch `name`; None if there is neither."""
    if name in forest:
        elm = forest[name]
        card = elm.card
        return _Model(Branch(elm.path), card.settings, card.parents, card.steps, card.source)
    if not forest.has_branch(name):
        return None
    branch = forest.get_branch(name)
    result, origin = branch.result or {}, branch.origin
    settings = {**origin.get("settings", {}), **result.get("settings", {})}
    steps = result.get("steps")
    return _Model(branch, settings, branch.parents, steps, origin.get("source", ""))


def _parents(
    config: Config, forest: Forest, model: _Model, among: Sequence[str]
) -> list[Difference]:
    """Compare the parents of a model with the ELMs it would be made of, and these with those that
    stand.
    """
    # One that was removed since is no other parent: its tombstone tells of its descendants.
    removed = tombstone.names(forest.root)
    others = [name for name in model.parents if name not in {*among, *removed}]
    if others:
        return [Difference(PARENTS, ", ".join(sorted(model.parents)), ", ".join(sorted(among)))]
    found = [
        Difference(f"parent {name}", parent.sha256[:12], forest[name].card.sha256[:12])
        for name, parent in model.parents.items()
        if name in forest and forest[name].card.sha256 != parent.sha256
    ]
    if isinstance(config.weights, dict):
        old = {name: round(parent.weight, 9) for name, parent in model.parents.items()}
        shares = normalise(check_weights(config.weights))
        new = {name: round(share, 9) for name, share in shares.items() if share}
        if old != new:
            found.append(Difference("weights", old, new))
    return found


def _architecture(config: Config, model: Branch) -> list[Difference]:
    """Compare the architecture of a model with that of model=, field by field."""
    stands = causal_lm.load_config(model.path)
    # Which token ends a text is no part of an architecture.
    asked = configs.make_config(config.model, causal_lm.text_config(stands).vocab_size, eos=0)
    return [
        Difference(f"{_MODEL}{key}", old, new)
        for key, old, new in configs.differences(stands, asked)
    ]


def _same_folder(one: str, other: str) -> bool:
    return bool(one) and Path(one).resolve() == Path(other).resolve()
