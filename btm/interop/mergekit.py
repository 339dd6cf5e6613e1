"""mergekit's recipe for an average: a YAML that makes it again from the ELMs, without btm.

Its sums are float32 as ours are, in another order: the two differ by rounding
(tests/interop/test_mergekit.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from btm.config.choices import AVERAGE_WEIGHTS
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.card import Card
from btm.forest.paths import ModelFolder
from btm.models import weights
from btm.models.causal_lm import DTYPES
from btm.system.json_files import Json

_USED = ("weights", *AVERAGE_WEIGHTS, "greedy_soup")  # how the weights were found
# mergekit's names of our settings, and its methods. Random methods (dare) are left out: its draws
# are others.
_SHARED = {"scale": "lambda", "t": "t"}
_OWN = {"density": "density", "gamma": "gamma"}
_SETTINGS = {
    "linear": (),
    "task_arithmetic": ("scale",),
    "ties": ("scale", "density"),
    "breadcrumbs": ("scale", "density", "gamma"),
    "slerp": ("t",),
    "model_stock": (),
}


def recipe(forest: Forest, average: Path) -> str:
    """Write the YAML with which ``mergekit-yaml FILE OUT`` makes the model folder `average` again.

    Raises `UserError` if mergekit has no such method, or if one of its parents is not in the forest
    as it was.
    """
    card = Card.read(ModelFolder(average).card)
    method = str(card.recipe.get("method", "linear"))
    _check(forest, average, card, method)
    settings = {"scale": 1.0, "density": 0.5, "gamma": 0.01, "t": 0.5} | card.recipe
    base = card.recipe.get("base")
    names = [name for name in card.parents if card.parents[name].raw != 0]
    lines = [f"merge_method: {method}"]
    if base is not None:
        lines.append(f"base_model: {_place(forest, str(base))}")
    lines.append("models:")
    if method in ("slerp", "model_stock"):
        lines.append(f"  - model: {_place(forest, str(base))}")
    own = {_OWN[key]: settings[key] for key in _SETTINGS[method] if key in _OWN}
    for name in names:
        parent = card.parents[name]
        weight = parent.weight if method == "linear" else parent.raw
        lines.append(f"  - model: {_place(forest, name)}")
        if method not in ("slerp", "model_stock"):
            lines.append(f"    parameters: {_yaml({'weight': weight} | own)}")
    shared: Json = {"normalize": True} if method == "linear" else {}
    shared |= {_SHARED[key]: settings[key] for key in _SETTINGS[method] if key in _SHARED}
    if shared:
        lines.append(f"parameters: {_yaml(shared)}")
    lines.append(f"dtype: {_dtype(average)}")
    return "\n".join(lines) + "\n"


def _check(forest: Forest, average: Path, card: Card, method: str) -> None:
    if not card.parents or card.branch_method not in _USED or card.steps:
        raise UserError(f"{average} is no average of ELMs; format=mergekit exports averages only")
    if method not in _SETTINGS or card.recipe.get("layers"):
        layers = card.recipe.get("layers")
        what = "weights of their own for some layers" if layers else f"average.method={method}"
        raise UserError(f"{average} was made with {what}, which mergekit cannot make again")
    for name, parent in card.parents.items():
        if forest[name].card.sha256 != parent.sha256:
            raise UserError(
                f"{average} was made of another {name!r} than the one in {forest.root}: "
                "average again"
            )


def _place(forest: Forest, name: str) -> str:
    """Quote an ELM's folder; a JSON string is a YAML string, whatever the path holds."""
    return json.dumps(str(forest[name].path.resolve()), ensure_ascii=False)


def _yaml(values: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"


def _dtype(folder: Path) -> str:
    """Return torch's name of the one float dtype of a model."""
    kinds = {tensor.dtype for tensor in weights.tensors(folder).values() if tensor.is_float}
    if len(kinds) != 1:
        raise UserError(
            f"{folder} is stored in {', '.join(sorted(kinds))}; "
            "mergekit makes all tensors of one type"
        )
    return DTYPES[kinds.pop()]
