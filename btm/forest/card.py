"""The card of an ELM or average, card.json: its provenance, cost and losses.

`btm/forest/model_card.py` makes of it the model card for people.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from btm.errors import UserError
from btm.system.json_files import Json, parse_json, read_regular

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Parent:
    """One parent of a branch: `weight` is its share of the average, `raw` what the estimator
    gave.
    """

    weight: float
    raw: float
    sha256: str


@dataclass(frozen=True)
class Spent:
    """The cost of one ELM's own training, without its ancestors'."""

    name: str
    sha256: str
    tokens: int
    flops: float


@dataclass(frozen=True)
class Source:
    """A source of the text that a model, or an ancestor of it, was trained on."""

    name: str
    license: str = ""  # an identifier of the Hugging Face Hub; empty: nobody said
    url: str = ""  # of http or https


@dataclass(frozen=True)
class Measured:
    """The loss of an average on the valid split of one domain, and the seeds' on the same tokens,
    in nats per token.
    """

    nats: float
    seeds: dict[str, float]  # ELM without parents: its nats
    tokens: int
    window: int  # tokens of context, each window begun anew
    shard: str = ""  # sha256 of the valid shard; empty: from before it was kept


@dataclass(frozen=True)
class Candidate:
    """An average that a search by benchmarks tried, and the first metric of each task."""

    weights: dict[str, float]
    layers: dict[str, dict[str, float]]  # {pattern of tensor names: weights}
    figures: dict[str, float | None]  # {task: value}; None: infinite, or undefined


@dataclass(frozen=True)
class Card:
    """The provenance of one ELM or average.

    Losses are nats per token on the valid split of an ELM's own domain, and on those of `measured`
    of an average.
    """

    name: str
    domains: list[str]  # what it was trained on itself; several for a seed
    sha256: str  # of the weights
    tokenizer_sha256: str
    parents: dict[str, Parent] = field(default_factory=dict)
    branch_method: str = "none"  # copy, uniform, argmax, posterior, token, weights; none: a root
    recipe: Json = field(default_factory=dict)  # of an average: how, where not linear
    estimator: str = ""  # how the parents' weights were found
    # of an average that was searched by benchmarks: all that were tried, in that order
    candidates: list[Candidate] = field(default_factory=list)
    delta: Json = field(default_factory=dict)  # of a sparse expert: density, budget, nonzeros, …
    # Of an expert whose weights are its parents' and an adapter: kind, rank, alpha, targets, …
    adapter: Json = field(default_factory=dict)
    # {dotted key: value} that its training depended on (btm/config/identity.py); empty: unknown
    settings: Json = field(default_factory=dict)
    steps: int = 0  # of its own training
    lr: float | None = None  # peak learning rate of its own training's schedule
    schedule: Json = field(default_factory=dict)  # of its own training: peak, horizon, decay, …
    tokens: int = 0  # of its own training
    flops: float = 0.0  # of its own training (btm/forest/ledger.py)
    ancestors: list[Spent] = field(default_factory=list)  # all it descends from, each once
    total_tokens: int = 0  # of its own training and of its ancestors'
    total_flops: float = 0.0
    parameters: int = 0
    matrix_parameters: int = 0  # those that take part in matrix products (btm/forest/ledger.py)
    attention: int = 0  # layers · width of attention
    data: dict[str, str] = field(default_factory=dict)  # domain: sha256 of the training shard
    valid_nats: float | None = None  # of the expert; of an average the mean over `measured`
    parent_valid_nats: dict[str, float] = field(default_factory=dict)
    measured: dict[str, Measured] = field(
        default_factory=dict
    )  # of an average, by domain, when it was made or measured again
    forced: bool = False  # merged although worse than a parent
    exact: bool = True  # bit-for-bit what an unbroken run gives
    notes: list[str] = field(default_factory=list)  # why not exact, what was carried over, …
    source: str = ""  # an imported model's folder
    source_sha256: str = ""  # of the weight files that were there
    license: str = ""  # an identifier of the Hugging Face Hub; empty: nobody said
    # What was stated of it and its ancestors (btm/forest/terms.py); `use` is of itself alone.
    ancestor_licenses: dict[str, str] = field(default_factory=dict)  # name: identifier
    languages: list[str] = field(default_factory=list)  # tags of BCP 47
    sources: list[Source] = field(default_factory=list)
    own_languages: list[str] | None = None  # of the text of its own training; None: unknown
    use: str = ""  # intended use
    restrictions: list[str] = field(default_factory=list)  # of its use, in words
    sums: bool = False  # whether SHA256SUMS names every file of the folder
    created: str = ""  # UTC, ISO 8601
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_expert(self) -> bool:
        """Whether it was trained on one domain, and so belongs to the ensemble."""
        return len(self.domains) == 1

    @property
    def seed_nats(self) -> dict[str, float]:
        """The mean nats of each seed over the domains that an average was measured on."""
        parts = list(self.measured.values())
        names = parts[0].seeds if parts else {}
        return {name: sum(part.seeds[name] for part in parts) / len(parts) for name in names}

    def to_json(self) -> Json:
        """Return the card as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, file: Path) -> "Card":
        """Read the card in `file`; `UserError` if it is not valid."""
        try:
            values = parse_json(read_regular(file))
        except FileNotFoundError:
            raise UserError(f"{file}: no such card: the folder is no ELM") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: not a valid card: {error}") from None
        return cls.from_json(values, file)

    @classmethod
    def from_json(cls, values: Any, file: Path) -> "Card":
        """Make a card of JSON `values` from `to_json`; `UserError`, naming `file`, if they are not
        valid.
        """
        try:
            if values.get("schema", 0) > SCHEMA:
                raise UserError(
                    f"{file}: written by a newer btm (schema {values['schema']}); this one reads "
                    f"{SCHEMA}"
                )
            known = {f.name for f in fields(cls)}
            values = {key: value for key, value in values.items() if key in known}
            parents = values.get("parents", {}).items()
            values["parents"] = {name: Parent(**parent) for name, parent in parents}
            values["ancestors"] = [Spent(**spent) for spent in values.get("ancestors", [])]
            values["candidates"] = [Candidate(**each) for each in values.get("candidates", [])]
            values["sources"] = [Source(**each) for each in values.get("sources", [])]
            measured = values.get("measured", {}).items()
            values["measured"] = {domain: Measured(**found) for domain, found in measured}
            return checked(cls(**values))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{file}: not a valid card: {error}") from None


def checked(card: Card) -> Card:
    """Check every value of a card and return it; `ValueError` if one is not of its field's type."""
    parts = (*card.parents.values(), *card.ancestors, *card.measured.values(), *card.candidates)
    for part in (*parts, *card.sources):
        typed(part)
    if len({tuple(sorted(part.seeds)) for part in card.measured.values()}) > 1:
        raise ValueError("measured names other seeds on one domain than on another")
    return typed(card)


def typed(made: T) -> T:
    """Check the types of a dataclass of JSON values and return it; `ValueError` if one is wrong."""
    for item in fields(made):  # type: ignore[arg-type]
        value = getattr(made, item.name)
        if not _fits(value, item.type):
            raise ValueError(f"{item.name} is {value!r}")
    return made


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a JSON value is of a type; a float may be written as a whole number, and must be
    finite.
    """
    if kind is Any:
        return True
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items()
        )
    if inner:  # a union
        return any(_fits(value, choice) for choice in inner)
    if kind is float:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def read_parents(file: Path, values: Json) -> dict[str, Parent]:
    """Make parents of the JSON `values` from `file`; `UserError` if they are not valid."""
    try:
        return {name: typed(Parent(**parent)) for name, parent in values.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: no valid parents: {error}") from None
