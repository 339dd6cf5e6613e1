"""`btm/forest/paths.py` alone spells the file names of a forest; `lease.py` alone knows its mark."""

import ast
import re

import pytest

import structure
from btm.forest.paths import ModelFolder, Paths, name_of_removed, step_of

# Names that stand for a file or folder and for nothing else.
NAMES = {
    "forest.json",
    "card.json",
    "branch.json",
    "trained.json",
    "rates.json",
    "plan.json",
    "settings.json",
    "metrics.jsonl",
    "throughput.json",
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "SHA256SUMS",
    "README.md",
    "elms",
    "averages",
    "branches",
    "scores",
    "evals",
    "checkpoint-",
    "submissions",
    "outcomes",
    "forgiven",
    "~",
}
# Words that are folders of a forest where they are joined to a path, and often something else.
WORDS = {"tokenizer", "removed", "fisher", "suites", "jobs", "deleting", "cancel", "retry", "logs"}
# Where each name may be spelled: its owner, and why another may.
OWNERS = {
    "btm.forest.paths": NAMES | WORDS - {"~"},
    "btm.models.files": {"config.json", "model.safetensors", "model.safetensors.index.json"},
    "btm.system.sums": {"SHA256SUMS"},
    "btm.system.durable": {"~"},  # lease.py takes it from there: it stands above
    "btm.cli.compose": {"~"},  # hydra's: a key that is deleted
    "btm.data.tokenizer": {"config.json"},  # of the fast tokenizers' Hub: a floor below the forest
    "btm.forest.__init__": {"averages"},  # the function, in __all__
}


def spelled(module):
    """The file names that a module spells: strings, or parts of strings between slashes.

    Docstrings and the keys of dicts are none; words count where they are joined to a path.
    """
    tree = ast.parse(structure.modules()[module].read_text())
    parts = [part for node in ast.walk(tree) for part in joined(node)]
    names = {part for text in strings(tree) for part in pieces(text)} & NAMES
    return names | {part for text in parts for part in pieces(text)} & WORDS


def pieces(text):
    return {*re.split(r"[/*]", text), re.sub(r"[{*].*", "", text)} - {""}


def strings(tree):
    """Every string of a module but its docstrings, and but those that are keys of a dict."""
    keys = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys |= {id(key) for key in node.keys}
        elif isinstance(node, ast.Subscript):
            keys.add(id(node.slice))
        elif isinstance(node, ast.Expr):
            keys.add(id(node.value))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node.value for node in found if isinstance(node.value, str) and id(node) not in keys]


def joined(node):
    """The strings that an expression joins to a path, with `/` or a method of `Path`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return strings(node.right)
    paths = ("glob", "rglob", "joinpath", "with_name", "Path")
    called = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", ""))
    return [text for one in node.args for text in strings(one)] if called in paths else []


@pytest.mark.parametrize("module", structure.modules())
def test_no_other_module_spells_a_file_name(module):
    assert spelled(module) <= OWNERS.get(module, set())


def test_the_owners_spell_what_they_own():
    for module, names in OWNERS.items():
        assert names <= spelled(module) | WORDS, module
