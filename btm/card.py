"""What an ELM says of itself: `card.json`, and a model card for people made from it."""

from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from btm.checks import parse_json, read_regular
from btm.errors import UserError

SCHEMA = 1


@dataclass(frozen=True)
class Parent:
    """One parent of a branch: `weight` is its share of the average, `raw` what the estimator gave."""

    weight: float
    raw: float
    sha256: str


@dataclass(frozen=True)
class Spent:
    """What the training of one ELM took, without its ancestors'."""

    name: str
    sha256: str
    tokens: int
    flops: float


@dataclass(frozen=True)
class Card:
    """The provenance of one ELM. Losses are nats per token on the valid split of its own domain."""

    name: str
    domains: list[str]  # what it was trained on itself; several for a seed
    sha256: str  # of the weights
    tokenizer_sha256: str
    parents: dict[str, Parent] = field(default_factory=dict)
    branch_method: str = "none"  # copy, uniform, argmax, posterior, weights; none: a root
    recipe: dict[str, Any] = field(default_factory=dict)  # of an average: how, where not linear
    estimator: str = ""  # how the parents' weights were found
    steps: int = 0  # of its own training
    tokens: int = 0  # of its own training
    flops: float = 0.0  # of its own training (btm/ledger.py)
    ancestors: list[Spent] = field(default_factory=list)  # all it descends from, each once
    total_tokens: int = 0  # of its own training and of its ancestors'
    total_flops: float = 0.0
    parameters: int = 0
    matrix_parameters: int = 0  # those that take part in matrix products (btm/ledger.py)
    attention: int = 0  # layers · width of attention
    data: dict[str, str] = field(default_factory=dict)  # domain: sha256 of the training shard
    valid_nats: float | None = None  # of the expert
    parent_valid_nats: dict[str, float] = field(default_factory=dict)
    forced: bool = False  # merged although worse than a parent
    exact: bool = True  # bit-for-bit what an unbroken run gives
    notes: list[str] = field(default_factory=list)  # why not exact, what was carried over, …
    source: str = ""  # an imported model's folder
    license: str = ""  # of an imported model, as its own card says
    created: str = ""  # UTC, ISO 8601
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_expert(self) -> bool:
        """Whether it was trained on one domain, and so belongs to the ensemble."""
        return len(self.domains) == 1

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, file: Path) -> "Card":
        """Return the card in `file`; `UserError` if it is none."""
        try:
            values = parse_json(read_regular(file))
            if values.get("schema", 0) > SCHEMA:
                raise UserError(
                    f"{file}: written by a newer btm (schema {values['schema']}); this one reads {SCHEMA}"
                )
            known = {f.name for f in fields(cls)}
            values = {key: value for key, value in values.items() if key in known}
            values["parents"] = {name: Parent(**parent) for name, parent in values.get("parents", {}).items()}
            values["ancestors"] = [Spent(**spent) for spent in values.get("ancestors", [])]
            return checked(cls(**values))
        except FileNotFoundError:
            raise UserError(f"{file}: no such card: the folder is no ELM") from None
        except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            raise UserError(f"{file}: not a valid card: {error}") from None

    def readme(self) -> str:
        """Return the model card: Hugging Face metadata, then what a person would ask first."""
        parents = "\n".join(
            f"| {name} | {p.weight:.4f} | `{p.sha256[:12]}` |" for name, p in self.parents.items()
        )
        lineage = (
            f"| parent | weight | sha256 |\n|---|---|---|\n{parents}"
            if parents
            else "A root: it has no parents."
        )
        loss = "" if self.valid_nats is None else f"{self.valid_nats:.4f} nats/token on its own valid split"
        facts = {
            "domains": ", ".join(self.domains) or "none of its own",
            "training": f"{self.steps:,} steps, {self.tokens:,} tokens" if self.steps else "none of its own",
            "training, ancestors included": f"{self.total_tokens:,} tokens, {self.total_flops:.3g} FLOPs"
            if self.total_tokens
            else "",
            "loss": loss,
            "parameters": f"{self.parameters:,}",
            "weights": f"sha256 `{self.sha256}`",
            "tokenizer": f"sha256 `{self.tokenizer_sha256}`",
            "notes": "; ".join(self.notes),
        }
        rows = "\n".join(f"- **{key}**: {value}" for key, value in facts.items() if value)
        licence = f"license: {self.license}\n" if self.license else ""
        return f"""---
library_name: transformers
{licence}pipeline_tag: text-generation
tags:
- branch-train-merge
- expert-language-model
---

# {self.name}

An expert language model (ELM) of a Branch-Train-Merge forest (arXiv 2208.03306).

{rows}

## Lineage

{lineage}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/{self.name}")
tokenizer = AutoTokenizer.from_pretrained("path/to/{self.name}")
```
"""


def read_parents(file: Path, values: dict[str, Any]) -> dict[str, Parent]:
    """Return the parents that a `file` of JSON lists; `UserError` if they are none."""
    try:
        parents = {name: Parent(**parent) for name, parent in values.items()}
        if not all(
            _is_a(getattr(parent, name), kind)
            for parent in parents.values()
            for name, kind in _types(Parent).items()
        ):
            raise TypeError("a weight, raw or sha256 of another type")
    except TypeError as error:
        raise UserError(f"{file}: no valid parents: {error}") from None
    return parents


def checked(card: Card) -> Card:
    """Return a card; `TypeError` if a field's value is not of the field's type."""
    owners: list[Any] = [card, *card.parents.values(), *card.ancestors]
    for owner in owners:
        for name, kind in _types(owner.__class__).items():
            if not _is_a(getattr(owner, name), kind):
                raise TypeError(f"{name} is no {getattr(kind, '__name__', kind)}")
    return card


@cache
def _types(owner: Any) -> dict[str, Any]:
    return get_type_hints(owner)


def _is_a(value: Any, kind: Any) -> bool:
    """Tell whether a JSON value is of a field's type; a whole number is a float too, a truth value is neither."""
    if isinstance(kind, UnionType):
        return any(_is_a(value, choice) for choice in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_a(item, get_args(kind)[1]) for item in value.values())
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
