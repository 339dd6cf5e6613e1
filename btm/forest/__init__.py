"""The registry on disk: a forest, its ELMs and branches, and the models that lie beside them."""

from btm.forest.branch import ELM, Branch
from btm.forest.forest import EXACT, SCHEMA, Forest
from btm.forest.models import Model, averages, find_model, own_model, require_same_tokenizer

__all__ = [
    "ELM",
    "EXACT",
    "SCHEMA",
    "Branch",
    "Forest",
    "Model",
    "averages",
    "find_model",
    "own_model",
    "require_same_tokenizer",
]
