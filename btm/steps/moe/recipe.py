"""Which mixture of experts is meant: its ELMs, their weights, and how its router is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from btm.config.average import check_average_weights
from btm.config.moe import SUMMED, TRAINED
from btm.config.schema import Config
from btm.errors import UserError, unknown
from btm.forest import Forest
from btm.forest.card import Card
from btm.forest.index import MOE
from btm.forest.paths import CARD, MOES
from btm.forest.suites import open_suites
from btm.report import Reporter
from btm.steps import domain_weights
from btm.system.json_files import Json

# The settings of `moe` that each router depends on, beside top_k.
_OF_ROUTER = {
    "ridge": ("ridge", "tokens", "reader"),
    "domain": ("tokens", "reader"),
    "random": ("seed",),
    "btx": ("seed", "steps", "train", "balance"),
    "base": ("seed", "steps", "train"),
}
_READ_BY = "read_by"  # {expert: hash of the average that read its text}, where that is another's


@dataclass(frozen=True)
class MoeRecipe:
    """A mixture of experts, as it is asked for or as its card tells."""

    name: str
    experts: tuple[str, ...]  # sorted, so that the order in which they join makes no difference
    weights: Mapping[str, float]  # of every expert in the average of the rest; some may be 0
    how: str  # these were found
    router: str
    top_k: int
    settings: Mapping[str, Any]  # `_OF_ROUTER` of the router, and `_READ_BY` where there is any
    # ELMs joined or left: what the average of those before has read is kept.
    keeps: bool = field(default=False, compare=False)

    @property
    def is_summed(self) -> bool:
        """Whether the router is made of sums of hidden states."""
        return self.router in SUMMED

    def recipe(self) -> Json:
        """Return what the card keeps of it, beside the parents."""
        return {"router": self.router, "top_k": self.top_k, **self.settings}

    @classmethod
    def of_card(cls, card: Card) -> "MoeRecipe":
        """Read a mixture from its card; `UserError` if that is of another version."""
        recipe = dict(card.recipe)
        raw = {name: parent.raw for name, parent in card.parents.items()}
        try:
            router, top_k = recipe.pop("router"), recipe.pop("top_k")
        except KeyError:
            raise UserError(
                f"{MOES}/{card.name}: its card does not tell how it was made: make it again"
            ) from None
        order = tuple(sorted(raw))
        return cls(card.name, order, raw, card.branch_method, router, top_k, recipe)

    def without(self, names: Sequence[str]) -> "MoeRecipe":
        """Leave the experts `names` out."""
        kept = {name: weight for name, weight in self.weights.items() if name not in names}
        if not any(kept.values()):
            kept = dict.fromkeys(kept, 1.0)
        top_k = max(1, min(self.top_k, len(kept)))
        return replace(self, experts=tuple(sorted(kept)), weights=kept, top_k=top_k, keeps=True)

    def read_by(self, others: Mapping[str, str]) -> "MoeRecipe":
        """Name the experts whose text `others` {expert: hash} read than its own average."""
        own = {key: value for key, value in self.settings.items() if key != _READ_BY}
        return replace(self, settings=own | ({_READ_BY: dict(others)} if others else {}))


def mixture_of(config: Config, forest: Forest, reporter: Reporter | None) -> MoeRecipe:
    """Make of the settings the mixture that is asked for.

    Weights by a word are found on valid splits, which scores ELMs where scores are missing; without
    a `reporter` they are left alike.
    """
    asked = config.moe
    elms = forest.experts(asked.experts)
    names = tuple(sorted({elm.name for elm in elms}))
    how = config.weights or "uniform"
    found: Mapping[str, float] = dict.fromkeys(names, 1.0)
    if not isinstance(how, str):
        found, how = check_average_weights(how, config.average), "weights"
        for name in found:
            if name not in names:
                raise unknown("expert", name, names, "the mixture (weights=)")
    elif how != "uniform" and reporter is not None:
        suite = open_suites(config)
        trained = {domain for elm in elms for domain in elm.card.domains}
        domains = [config.domain] if config.domain else sorted(trained & set(suite.domains()))
        found, _ = domain_weights.domain_weights(
            config, forest, suite, domains, elms, how, reporter
        )
    top_k = asked.top_k or (1 if asked.router == "base" else 2)
    settings = {word: getattr(asked, word) for word in _OF_ROUTER[asked.router]}
    return MoeRecipe(
        asked.name or asked.router,
        names,
        {name: float(found.get(name, 0.0)) for name in names},
        how,
        asked.router,
        top_k,
        settings,
    )


def changed(config: Config, forest: Forest) -> MoeRecipe:
    """Make of a mixture that stands the one that ELMs have joined or left.

    One that joins weighs in the average what the others do on the mean.
    """
    asked = config.moe
    if asked.name is None:
        raise UserError("which one? give moe=NAME, the mixture that ELMs join or leave")
    standing = mixtures(forest)
    if asked.name not in standing:
        raise unknown(MOE, asked.name, standing, str(forest.root))
    mixture = MoeRecipe.of_card(standing[asked.name])
    if mixture.router in TRAINED:
        raise UserError(
            f"moe={asked.name}: its router was trained ({mixture.router}) with the experts that it "
            "has: make another with moe.experts=[…]"
        )
    for name in asked.remove:
        if name not in mixture.experts:
            raise unknown("expert", name, mixture.experts, f"moe={asked.name}")
    left = [name for name in mixture.experts if name not in asked.remove]
    if len(left) < 2:
        raise UserError(
            f"moe.remove=[{', '.join(asked.remove)}]: a mixture has at least two experts, and "
            f"{', '.join(left) or 'none'} would be left"
        )
    mixture = mixture.without(asked.remove) if asked.remove else mixture
    weights = dict(mixture.weights)
    usual = sum(weights.values()) / len(weights)
    for name in asked.add:
        weights.setdefault(forest[name].name, usual)
    weights = dict(sorted(weights.items()))  # as if all were named at once
    return replace(mixture, experts=tuple(weights), weights=weights, keeps=True)


def mixtures(forest: Forest) -> dict[str, Card]:
    """Read the cards of the mixtures that stand whole, by name."""
    cards = sorted(forest.root.glob(f"{MOES}/[!.]*/{CARD}"))
    return {file.parent.name: Card.read(file) for file in cards}
