"""Rederivation: remove an ELM, then branch and train its heirs again without it.

The plan is written beside the tombstone (plan.json) before anything is deleted; progress is what
stands in the forest. So the same command goes on after a kill. A model with the removed one, or one
of the old heirs, among its parents is an old heir; any other is new.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from btm import steps
from btm.config import identity
from btm.config.choices import AVERAGE_WEIGHTS
from btm.config.identity import Difference
from btm.config.moe import TRAINED
from btm.config.schema import Config
from btm.config.training import DELTA_MASKS, TrainerConfig
from btm.config.validation import validate
from btm.errors import UserError
from btm.forest import Forest, publish, removal, tombstone
from btm.forest.card import Card, Parent
from btm.forest.index import AVERAGE, DERIVED, MOE, STUDENT
from btm.forest.lineage import BRANCH
from btm.forest.paths import ModelFolder, Paths
from btm.forest.tombstone import Heir
from btm.report import Reporter, quiet
from btm.report.tables import TableRow
from btm.steps.moe import make as make_mixture
from btm.steps.moe.recipe import MoeRecipe
from btm.steps.recipe import FIT
from btm.system import durable
from btm.system.json_files import read_object

SCHEMA = 1
_AVERAGES = (
    "weights",
    *AVERAGE_WEIGHTS,
)  # averages that can be made again of the weights on their card


@dataclass(frozen=True)
class Old:
    """A model as it was before the removal."""

    kind: str
    card: Card

    @property
    def name(self) -> str:
        """Its name, which the new one has too."""
        return self.card.name


@dataclass(frozen=True)
class Plan:
    """The models that are made again, parents before children."""

    name: str  # of the ELM that is removed
    sha256: str
    old: list[Old]
    finished: str = ""  # UTC, ISO 8601

    @property
    def tainted(self) -> set[tuple[str, str]]:
        """(name, sha256) of every ELM that nothing new may descend from."""
        return {
            (self.name, self.sha256),
            *((o.name, o.card.sha256) for o in self.old if o.kind not in DERIVED),
        }

    def write(self, root: Path) -> None:
        """Put the plan beside the tombstone."""
        values = {"schema": SCHEMA, **asdict(self)}
        durable.write_json(Paths(root).plan(self.name), values)

    @classmethod
    def read(cls, root: Path, name: str) -> "Plan | None":
        """Read the plan beside the tombstone of `name`; None if there is none."""
        file = Paths(root).plan(name)
        if not file.exists():
            return None
        values = read_object(file, schema=int, name=str, sha256=str, old=list, finished=str)
        try:
            old = [Old(item["kind"], Card.from_json(item["card"], file)) for item in values["old"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{file}: not a valid plan: {error}") from None
        return cls(values["name"], values["sha256"], old, values["finished"])


def rederive(
    config: Config, name: str, *, reason: str = "", reporter: Reporter = quiet
) -> list[TableRow]:
    """Remove `name` and make its heirs again without it; return a row for each, with its outcome.

    Raises `UserError`, before anything is removed, if one of them cannot be made again.
    """
    forest = Forest(config.forest_root)
    plan = Plan.read(forest.root, name)
    if plan is None or plan.finished:
        plan = make_plan(config, forest, name)
    removal.require_idle(forest, [name, *(o.name for o in plan.old)])
    removal.remove(forest, name, reason=reason)
    plan.write(
        forest.root
    )  # a kill before this: the heirs still stand, and the plan follows from them again
    for old in plan.old:
        _discard(forest, plan, old)
    rows = [_again(config, forest, plan, old, reporter) for old in plan.old]
    if all(row["now"] != "failed" for row in rows):
        Plan(
            plan.name, plan.sha256, plan.old, datetime.now(UTC).isoformat(timespec="seconds")
        ).write(forest.root)
    return rows


def make_plan(config: Config, forest: Forest, name: str) -> Plan:
    """Plan which models are made again; `UserError` if one of them cannot be."""
    found = removal.consequences(forest, name)
    old = [_old(forest, heir) for heir in found.heirs]
    plan = Plan(name, found.card.sha256, old)
    cards = {name: found.card} | {o.name: o.card for o in old if o.kind not in DERIVED}
    stay = (set(forest.names()) - {name}) | {o.name for o in old if o.kind not in DERIVED}
    grown = any(o.kind not in DERIVED and not _is_student_in_making(o) for o in old)
    suite = steps.open_suites(config) if grown else None
    for o in old:
        if o.kind in DERIVED or _is_student_in_making(o):
            continue
        if o.card.branch_method == "demix" or len(o.card.domains) != 1:
            raise UserError(
                f"{o.name!r} was not branched and trained on its own: grow its forest again"
            )
        if not without(o.card, stay - {o.name}, cards):
            raise UserError(
                f"{o.name!r} would have no parent left: {name!r} is a root. Leave --rederive out, "
                "or give "
                "--with-descendants and plant anew: btm seed"
            )
        if suite is not None:
            for split in ("train", "valid"):
                suite.shard(o.card.domains[0], split)
        _trained_as(config, o.card)
    return plan


def without(card: Card, standing: Iterable[str], cards: dict[str, Card]) -> dict[str, float]:
    """Find the parents of a model that stand, with their weights; if none does, their parents
    instead.
    """
    standing = set(standing)
    kept = {name: p.weight for name, p in card.parents.items() if name in standing}
    if kept:
        return kept
    found: dict[str, float] = {}
    for name, parent in card.parents.items():
        known = cards.get(name)
        if known is not None and name != card.name:
            others = {k: v for k, v in cards.items() if k != name}
            for grand, weight in without(known, standing, others).items():
                found[grand] = found.get(grand, 0.0) + parent.weight * weight
    return found


def _old(forest: Forest, heir: Heir) -> Old:
    if heir.kind == BRANCH:
        made = forest.get_branch(heir.name)
        result = made.result or {}
        card = Card(
            name=made.name,
            domains=made.domains,
            sha256="",
            tokenizer_sha256="",
            parents=made.parents,
            branch_method=made.origin["method"],
            estimator=made.origin["estimator"],
            settings={**made.origin.get("settings", {}), **result.get("settings", {})},
            steps=result.get("steps") or 0,
            data=result.get("data") or {},
        )
        return Old(heir.kind, card)
    if heir.kind in DERIVED:
        place = DERIVED[heir.kind]
        return Old(heir.kind, Card.read(forest.paths.derived(place, heir.name).card))
    return Old(heir.kind, forest[heir.name].card)


def _is_student_in_making(old: Old) -> bool:
    """Tell whether a branch is a student's, which nobody grows again: btm distil begins it anew."""
    return old.kind == BRANCH and old.card.branch_method == "distil"


def _discard(forest: Forest, plan: Plan, old: Old) -> None:
    """Delete what still stands of the old model; what was made anew stays."""
    bin = forest.paths.bin(plan.name)
    if old.kind == MOE:
        return  # what it read of the others serves the new one, which takes its place
    if old.kind in DERIVED:
        file = forest.paths.derived(DERIVED[old.kind], old.name).card
        if file.is_file() and _is_old(plan, Card.read(file).parents):
            removal.discard_heir(forest, bin, Heir(old.kind, old.name, old.card.sha256, None, None))
        return
    if old.name in forest and _is_old(plan, forest[old.name].card.parents):
        removal.discard(bin, forest.paths.elm(old.name).path)
    if forest.has_branch(old.name) and _is_old(plan, forest.get_branch(old.name).parents):
        removal.discard_branch(forest, bin, old.name)
    removal.discard_derived(forest.root, [old.card.sha256])


def _is_old(plan: Plan, parents: dict[str, Parent]) -> bool:
    return any((name, parent.sha256) in plan.tainted for name, parent in parents.items())


def _again(config: Config, forest: Forest, plan: Plan, old: Old, reporter: Reporter) -> TableRow:
    """Make one model again, or go on; a mistake (its merge is refused, say) stops this one
    alone.
    """
    row: TableRow = {"what": old.kind, "name": old.name, "now": "made again", "why": ""}
    try:
        if old.kind in DERIVED:
            return row | _derived_again(config, forest, plan, old, reporter)
        if _is_student_in_making(old):
            return row | {"now": "deleted", "why": "it is begun anew by hand: btm distil"}
        made = _settings(config, forest, old)
        unknown = _unknown(made, old.card)
        if unknown and old.name not in forest:
            reporter.line(f"{old.name}: {unknown}")
        _grow(made, forest, plan, old, reporter)
    except UserError as error:
        return row | {"now": "failed", "why": str(error)}
    new = forest[old.name].card
    return row | _compared(old.card, new, unknown)


def _unknown(config: Config, card: Card) -> str:
    """Say which settings of the training of an expert its card lacks; "" where it lacks none, or
    where nothing was trained yet.
    """
    lacking = identity.lacking(config, card.settings) if card.steps else []
    if not lacking:
        return ""
    what = ", ".join(lacking) if card.settings else "the settings of its training"
    return f"its card does not say {what}: taken from this command"


def _compared(old: Card, new: Card, *why: str) -> TableRow:
    """Give the losses of a model before and after, `why`, and which settings and text differ."""
    found = identity.differences(old.settings, new.settings)
    valid = [{d: part.shard for d, part in card.measured.items()} for card in (old, new)]
    for what, was, now in (("text", old.data, new.data), ("valid of", valid[0], valid[1])):
        found += [
            Difference(f"{what} {domain}", was[domain][:12], now[domain][:12])
            for domain in sorted(was.keys() & now.keys())
            if was[domain] and now[domain] and was[domain] != now[domain]
        ]
    said = "; ".join([*filter(None, why), *map(str, found)])
    return {"before": old.valid_nats, "after": new.valid_nats, "why": said}


def _grow(config: Config, forest: Forest, plan: Plan, old: Old, reporter: Reporter) -> None:
    if old.name in forest:
        return
    if not forest.has_branch(old.name):
        # Weighed among all that it was, of which its parents are those that counted.
        weighed = {*old.card.settings.get(identity.CANDIDATES, ()), *old.card.parents}
        missing = [
            o.name
            for o in plan.old
            if o.kind not in DERIVED and o.name in weighed and o.name not in forest
        ]
        if missing:
            raise UserError(f"its parent {missing[0]!r} was not made again yet")
        among = [name for name in sorted(weighed) if name in forest] or None
        steps.branch(config, old.name, old.card.domains[0], among=among, reporter=reporter)
    steps.train(config, old.name, reporter)
    steps.merge(config, old.name, reporter)


def _trained_as(config: Config, card: Card) -> Config:
    """Set the keys that train an expert as its card says that it was; what the card lacks, as those
    of an older btm, stays as it is in `config`.
    """
    made = deepcopy(config)
    made.trainer.steps = card.steps or config.trainer.steps
    density, mask = card.delta.get("density"), card.delta.get("mask")
    made.trainer.delta_density = density if isinstance(density, float) and 0 < density < 1 else 1.0
    made.trainer.delta_mask = mask if mask in DELTA_MASKS else config.trainer.delta_mask
    identity.apply_training(made, card.settings)
    _adapt(made.trainer, card)
    return validate(made)


def _settings(config: Config, forest: Forest, old: Old) -> Config:
    """Set the keys that branch and train an expert as it was, from the parents that are left."""
    made = _trained_as(config, old.card)
    kept = {name: p.weight for name, p in old.card.parents.items() if name in forest}
    cards = {stone.name: stone.card for stone in tombstone.all_of(forest.root)}
    if kept and old.card.branch_method in AVERAGE_WEIGHTS:
        made.branch, made.weights = old.card.branch_method, None
    elif kept and old.card.branch_method == "copy":
        made.branch, made.parent, made.weights = "copy", next(iter(kept)), None
    else:
        made.weights = kept or without(old.card, forest.names(), cards)
    return made


def _adapt(trainer: TrainerConfig, card: Card) -> None:
    """Set the keys that train an adapter as that on a card, or none."""
    trainer.adapter = "lora" if card.adapter else "none"
    for key in ("rank", "alpha", "targets"):
        if key in card.adapter:
            setattr(trainer, f"lora_{key}", card.adapter[key])


def _derived_again(
    config: Config, forest: Forest, plan: Plan, old: Old, reporter: Reporter
) -> TableRow:
    """Make a derived model again of the ELMs that are left, or tell how it can be."""
    if old.kind == AVERAGE:
        return _average_again(config, forest, old, reporter)
    if old.kind == STUDENT:
        return _student_again(config, forest, old, reporter)
    return _mixture_again(config, forest, plan, old, reporter)


def _mixture_again(
    config: Config, forest: Forest, plan: Plan, old: Old, reporter: Reporter
) -> TableRow:
    """Make a mixture again of the experts that are left: where its router is a matter of sums, by
    taking off those of the removed one.

    The old one stands until the new one takes its place, or it is clear that none will.
    """
    file = forest.paths.derived(DERIVED[MOE], old.name).card
    if file.is_file() and not _is_old(plan, Card.read(file).parents):
        return {}
    mixture = MoeRecipe.of_card(old.card)
    gone = [name for name in mixture.experts if name not in forest]
    heir = Heir(MOE, old.name, old.card.sha256, None, None)
    if len(mixture.experts) - len(gone) < 2:
        removal.discard_heir(forest, forest.paths.bin(plan.name), heir)
        return {"now": "deleted", "why": "fewer than two of its experts are left"}
    try:
        config = _measured_as(config, old.card)
        identity.apply(config, old.card.settings)  # its router's training, the window of its sums
        config = validate(config)
        path = make_mixture(config, forest, mixture.without(gone), reporter)
    except UserError:
        removal.discard_heir(forest, forest.paths.bin(plan.name), heir)
        raise
    removal.discard_derived(forest.root, [old.card.sha256])
    new = Card.read(ModelFolder(path).card)
    trained = mixture.router in TRAINED and not old.card.settings
    lacks = "its card has no settings of its training: taken from this command" if trained else ""
    return _compared(old.card, new, lacks)


def _average_again(config: Config, forest: Forest, old: Old, reporter: Reporter) -> TableRow:
    if forest.paths.average(old.name).card.is_file():
        return {}
    kept = {name: p.raw for name, p in old.card.parents.items() if p.raw and name in forest}
    method, settings = old.card.branch_method, publish.settings_again(forest, old.card)
    if not kept:
        return {"now": "deleted", "why": "none of its parents is left"}
    if method not in _AVERAGES:
        on = "tasks" if old.card.candidates else "valid"
        again = f"btm average average.search={on}" if method == "search" else "btm average"
        why = f"{method!r} weights cannot be found again from its card: make it with {again}"
        return {"now": "deleted", "why": why}
    if settings is None:
        return {
            "now": "deleted",
            "why": "its base, an ELM of average.layers or Fisher information is gone",
        }
    scale = old.card.settings.get(publish.SCALE)
    fitted = ["weights"] if method not in ("weights", "uniform") else []
    fitted += ["scale"] if scale == FIT else []
    said = f"{' and '.join(fitted)} kept, not fitted again" if fitted else ""
    path = publish.average(
        forest,
        old.name,
        kept,
        method=method,
        estimator=said,
        settings=settings,
        scale=scale,
        alive=reporter.alive,
        measure=steps.measuring(_measured_as(config, old.card), forest, reporter),
    )
    return _compared(old.card, Card.read(ModelFolder(path).card), said)


def _student_again(config: Config, forest: Forest, old: Old, reporter: Reporter) -> TableRow:
    """Distil a student again of the teachers that are left, as its card says it was."""
    again = steps.distilled_as(config, old.card)
    again.distil.experts = [name for name in again.distil.experts if name in forest]
    if not again.distil.experts:
        return {"now": "deleted", "why": "none of its teachers is left"}
    path = steps.distil(again, reporter)
    return _compared(old.card, Card.read(ModelFolder(path).card))


def _measured_as(config: Config, card: Card) -> Config:
    """Set the keys that measure an average as it was: on one domain, on all of its own, or not."""
    made = deepcopy(config)
    made.average.measure = bool(card.measured)
    made.domain = next(iter(card.measured)) if len(card.measured) == 1 else None
    return made
