"""mergekit's YAML for an average: anybody can make it again from the ELMs, without btm.

An average of btm is Σ_j w_j θ_j with weights that sum to 1 (BTM, section 2.3), which mergekit calls ``linear``. Its
sums are float32 where ours are float64, so the two differ by the rounding (tests/interop/test_mergekit.py).
"""

import json
from pathlib import Path

from btm import weights
from btm.card import Card
from btm.errors import UserError
from btm.forest import Forest
from btm.interop.huggingface import DTYPES

_LINEAR = ("weights", "uniform", "argmax", "posterior")  # how the weights of a plain mean were found


def recipe(forest: Forest, average: Path) -> str:
    """Return the YAML with which ``mergekit-yaml FILE OUT`` makes the model folder `average` again.

    Raises `UserError` if it is no weighted mean of ELMs, or if one of them is not in the forest as it was.
    """
    card = Card.read(average / "card.json")
    if not card.parents or card.branch_method not in _LINEAR or card.steps:
        raise UserError(f"{average} is no weighted mean of ELMs, which is all that format=mergekit can say")
    for name, parent in card.parents.items():
        if forest[name].card.sha256 != parent.sha256:
            raise UserError(
                f"{average} was made of another {name!r} than the one in {forest.root}: average again"
            )
    first = forest[next(iter(card.parents))].path
    lines = ["merge_method: linear", "models:"]
    for name, parent in card.parents.items():
        # JSON's strings are YAML's, whatever a path holds.
        place = json.dumps(str(forest[name].path.resolve()), ensure_ascii=False)
        lines += [f"  - model: {place}", f"    parameters: {{weight: {parent.weight!r}}}"]
    lines += ["parameters: {normalize: true}", f"dtype: {_dtype(first)}"]
    return "\n".join(lines) + "\n"


def _dtype(folder: Path) -> str:
    """Return torch's name of the one float type that an average takes over from its first parent."""
    kinds = {tensor.dtype for tensor in weights.tensors(folder).values() if tensor.is_float}
    if len(kinds) != 1:
        raise UserError(
            f"{folder} is stored in {', '.join(sorted(kinds))}; mergekit makes all tensors of one type"
        )
    return DTYPES[kinds.pop()]
