"""A student as a command asks for it, compared with one that stands or was begun.

What differs is refused in one line that names each difference: settings, teachers, text, the valid
text that something is fitted on, and the model that it begins as.
"""

from dataclasses import dataclass

from btm.config import identity
from btm.config.identity import Difference
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.errors import UserError, command
from btm.forest import ELM, Branch, Forest, Model, own_model
from btm.forest.card import Card
from btm.models import average as averaging
from btm.steps.distil import teachers
from btm.steps.distil.teachers import Teachers
from btm.system.json_files import Json

_AVERAGES = ("token", "uniform")  # as distil.init: the average of the teachers


@dataclass(frozen=True)
class Asked:
    """A student as a command asks for it; `config` has its steps and its learning rate."""

    config: Config
    forest: Forest
    suite: Suite
    teachers: Teachers
    shards: list[Shard]  # its train text

    @property
    def name(self) -> str:
        """The name of the student."""
        return str(self.config.distil.name)

    @property
    def elms(self) -> list[ELM]:
        """Its teachers, by name."""
        return self.teachers.elms

    @property
    def reads(self) -> bool:
        """Whether the teachers are read: not for a student that learns from the text alone."""
        return self.config.distil.weight > 0

    @property
    def data(self) -> dict[str, str]:
        """Its train text, {domain: sha256 of the shard}."""
        return {shard.domain: shard.sha256 for shard in self.shards}

    @property
    def begins_fitted(self) -> bool:
        """Whether the shares of the average that it begins as are fitted on valid text."""
        return self.config.distil.init == "token" and len(self.elms) > 1

    @property
    def fitted_on(self) -> dict[str, str]:
        """The valid text that its start or the teachers' priors are fitted on, {domain: sha256}."""
        if not (self.reads or self.begins_fitted):
            return {}
        return {domain: self.suite.shard(domain, "valid").sha256 for domain in self.data}

    @property
    def settings(self) -> Json:
        """All settings that its parameters depend on, by dotted key."""
        trainer, chosen = self.config.trainer, self.config.distil
        made = identity.of_trainer(trainer) | {"trainer.lr": trainer.lr}
        made |= {
            "distil.steps": self.teachers.steps,
            "distil.init": chosen.init,
            "distil.weight": chosen.weight,
        }
        if self.reads:
            made |= {"distil.temperature": chosen.temperature}
            made |= teachers.settings_of(self.config)
        if self.begins_fitted:
            made |= teachers.fitting_of(self.config)
        return made


def start_model(asked: Asked) -> Model | None:
    """Find the model that the student begins as; None for an average of the teachers.

    `UserError` for one that is not there, or is no ELM and no average.
    """
    init = asked.config.distil.init
    if init in _AVERAGES:
        return None
    name = asked.config.seed.name if init == "seed" else init
    model = own_model(asked.forest, name)
    if model.kind not in ("ELM", "average"):
        raise UserError(
            f"distil.init={init}: a {model.kind}, and a student begins as an ELM or an average; "
            f"have: {', '.join(asked.forest.names())}"
        )
    averaging.require_same_tensors(asked.elms[0].path, model.path)
    return model


@dataclass(frozen=True)
class Standing:
    """A student that stands or was begun, as far as it is compared."""

    settings: Json
    teachers: dict[str, str]  # ELM: sha256
    data: dict[str, str]  # domain: sha256
    # {} where it has none, or an older btm did not record it:
    fitted_on: dict[str, str]  # domain: sha256 of its valid text
    start: dict[str, str]  # distil.init: sha256, of an ELM or an average that stood


def of_card(card: Card) -> Standing:
    """Read what a student that stands is of."""
    names = card.recipe.get("teachers", [])
    taught = {name: card.parents[name].sha256 for name in names if name in card.parents}
    fitted_on, start = (card.recipe.get(key, {}) for key in ("fitted_on", "start"))
    return Standing(card.settings, taught, card.data, fitted_on, start)


def of_branch(branch: Branch) -> Standing:
    """Read what a student was begun with; `UserError` for a branch that is none."""
    origin, parents = branch.origin, branch.parents
    if origin["method"] != "distil":
        raise UserError(f"{branch.path} is no student in the making: delete it, or rename it")
    taught = {name: parents[name].sha256 for name in origin["teachers"]}
    fitted_on, start = (origin.get(key, {}) for key in ("fitted_on", "start"))
    return Standing(origin["settings"], taught, origin["data"], fitted_on, start)


def _start_of(asked: Asked) -> dict[str, str]:
    """Identify the model that the student would begin as; {} for an average of its teachers, or
    where that model is gone: one that was removed since is no other start.
    """
    try:
        model = start_model(asked)
    except UserError:
        return {}
    return {} if model is None else {asked.config.distil.init: model.sha256}


def refuse(asked: Asked, stands: Standing, place: str) -> None:
    """Raise `UserError` naming all in which the student at `place` differs from what is asked."""
    found = identity.differences(stands.settings, asked.settings)
    now = {elm.name: elm.card.sha256 for elm in asked.elms}
    for what, old, new in (
        ("teacher", stands.teachers, now),
        ("text", stands.data, asked.data),
        ("valid text", stands.fitted_on, asked.fitted_on),
        ("start", stands.start, _start_of(asked)),
    ):
        if old.keys() != new.keys() and what in ("teacher", "text"):
            found.append(Difference(f"{what}s", ", ".join(sorted(old)), ", ".join(sorted(new))))
        found += [
            Difference(f"{what} {name}", old[name][:12], new[name][:12])
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ]
    if found:
        gone = command("remove", student=asked.name, forest=asked.forest.root)
        raise UserError(
            f"{place} is of other settings: {'; '.join(map(str, found))}: give the settings that "
            f"stand, another student=NAME, or first {gone}"
        )
