"""The modules of readers by name; one of somebody else's is named ``package.module:Class``.

A name of btm's own is always loaded. Code from elsewhere is loaded only where the command names
it: a saved reader that names some is refused without that, whoever made the folder.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from btm.errors import UserError, unknown
from btm.readers import ports
from btm.system.json_files import Json

# What reads the questions of a split from a folder, as `Example`s: {name: function}. It returns []
# for a missing split, and raises `UserError` with file and line for an invalid question.
QUESTIONS = {
    "triples": "btm.readers.links.triples:read",
    "squad": "btm.readers.spans.squad:read",
    "choices": "btm.readers.choices.questions:choices",
    "inference": "btm.readers.choices.questions:inference",
}
INPUTS = {
    "links": "btm.readers.links.inputs:Links",
    "windows": "btm.readers.spans.windows:Windows",
    "likelihoods": "btm.readers.choices.likelihood:Likelihoods",
    "verdicts": "btm.readers.choices.likelihood:Verdicts",
    "pairs": "btm.readers.choices.pairs:Pairs",
}
MODELS = {
    "distmult": "btm.readers.links.models:DistMult",
    "complex": "btm.readers.links.models:ComplEx",
    "conve": "btm.readers.links.models:ConvE",
    "span": "btm.readers.spans.model:Span",
    "likelihood": "btm.readers.choices.likelihood:Likelihood",
    "entailment": "btm.readers.choices.pairs:Entailment",
}
OUTPUTS = {
    "ranking": "btm.readers.links.outputs:Ranking",
    "spans": "btm.readers.spans.output:Spans",
    "candidates": "btm.readers.choices.output:Candidates",
}
_KINDS = {"questions": QUESTIONS, "input": INPUTS, "model": MODELS, "output": OUTPUTS}


@dataclass(frozen=True)
class Spec:
    """The modules of a reader by name, and their settings."""

    questions: str
    input: str
    model: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> Json:
        """Write it for the reader's folder."""
        return asdict(self)

    @property
    def foreign(self) -> set[str]:
        """The names of code that is not btm's own."""
        return {getattr(self, kind) for kind in _KINDS} - {
            n for own in _KINDS.values() for n in own
        }


@dataclass(frozen=True)
class Parts:
    """The classes of a reader's modules, with the options that each takes; their ports fit."""

    read: Callable[..., Any]
    input: Any
    model: Any
    output: Any
    options: Mapping[str, Mapping[str, Any]]  # of input, model and output


def resolve(spec: Spec, named: Collection[str] = ()) -> Parts:
    """Import the modules of a reader and check that their ports fit and their options exist.

    Nothing is made, and no weights are loaded. `named` is the foreign code that the command names.
    Raises `UserError` for a name that is none, foreign code that was not named, ports that do not
    fit, and an option that no module takes.
    """
    for name in sorted(spec.foreign - set(named)):
        if ":" in name:
            raise UserError(
                f"the reader runs code of its own, {name}: name it in the command to allow that"
            )
    found = {kind: _import(kind, getattr(spec, kind)) for kind in _KINDS}
    given, model = found["input"], found["model"]
    ports.require(f"reader.model={spec.model}", model.takes, given.gives)
    ports.require(f"reader.model={spec.model}, to learn,", model.targets, given.targets)
    both = (*given.gives, *model.gives)
    ports.require(f"reader.output={spec.output}", found["output"].takes, both)
    options = _options(spec, {kind: found[kind] for kind in ("input", "model", "output")})
    return Parts(found["questions"], given, model, found["output"], options)


def _import(kind: str, name: str) -> Any:
    known = _KINDS[kind]
    if name not in known and ":" not in name:
        raise unknown(f"reader.{kind}", name, known)
    module, _, attribute = known.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"reader.{kind}={name}: {error}; wanted package.module:NAME that Python can import"
        ) from None


def _options(spec: Spec, classes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Share out the options to the modules that take them; `UserError` for one that none takes."""
    takes = {kind: _keywords(of) for kind, of in classes.items()}
    for name, value in spec.options.items():
        defaults = [own[name] for own in takes.values() if name in own]
        if not defaults:
            have = sorted({each for own in takes.values() for each in own})
            raise unknown("reader.options", name, have)
        if not _fits(value, defaults[0]):
            raise UserError(f"reader.options: {name}={value}: wanted {_kind(defaults[0])}")
    return {
        kind: {name: value for name, value in spec.options.items() if name in own}
        for kind, own in takes.items()
    }


def _keywords(of: Any) -> dict[str, Any]:
    """Read the keyword-only arguments of a class with their defaults."""
    parameters = inspect.signature(of).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def _kind(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return f"{kinds.get(type(default), type(default).__name__)}, as {default}"
