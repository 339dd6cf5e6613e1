"""`btm/forest/paths.py` alone spells the file names of a forest, `job_paths.py` those of its cycles."""

import ast
import functools
import re

import structure
from btm.forest import paths
from btm.forest.paths import ModelFolder, Paths

MODULES = structure.modules()
HUB = {"config.json", "model.safetensors", "model.safetensors.index.json", "README.md"}
# What stands for a file or a folder wherever it is spelled.
NAMES = HUB | {
    "forest.json",
    "card.json",
    "branch.json",
    "trained.json",
    "rates.json",
    "plan.json",
    "settings.json",
    "metrics.jsonl",
    "throughput.json",
    "SHA256SUMS",
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
# Words with other meanings too: they are folders of a forest where they are joined to a path.
WORDS = {"tokenizer", "removed", "fisher", "suites", "jobs", "deleting", "cancel", "retry", "logs"}
# The records of cycles.
JOBS = {"throughput.json", "submissions", "outcomes", "forgiven", "cancel", "retry", "logs"}
# Who may spell what, and why.
SPELLED = {
    "btm.forest.paths": (NAMES | WORDS) - HUB - {"SHA256SUMS", "~"} - JOBS,
    "btm.forest.job_paths": JOBS,
    "btm.models.files": HUB,  # below the forest: what the Hugging Face Hub calls the files of a model
    "btm.system.sums": {"SHA256SUMS"},  # the format that it reads and writes
    "btm.system.durable": {"~"},  # below lease.py, which takes its mark from there
    "btm.cli.compose": {"~"},  # hydra's sign for a key that is taken out
    # A press of Tab waits for no import of the forest's rooms; tests/cli/completion compares them.
    "btm.cli.completion.places": {"averages", "branches", "elms", "forest.json"},
    "btm.system.caches": {"~"},  # the user's home folder
    "btm.commons.keys": {"~"},  # the same
    "btm.data.folders": {"~"},  # the end of a backup's name
    "btm.cli.verbs.reads": {"averages"},  # the key of that name
    "btm.config.recipes": {"averages"},
    "btm.data.tokenizer": {"config.json"},  # of a tokenizer's folder, which need not hold a model
    "btm.readers.choices.likelihood": {"scores"},  # a port of that name, here and below
    "btm.readers.links.models": {"scores"},
    "btm.readers.links.outputs": {"scores"},
    "btm.fairseq.legacy": {"settings.json", "model.safetensors"},  # in its scratch folder
}


@functools.cache
def spelled(module):
    """The file names in the strings of a module that are neither docstrings nor keys of a dict."""
    tree = ast.parse(MODULES[module].read_text())
    names = {part for text in strings(tree) for part in pieces(text)} & NAMES
    places = {text for node in ast.walk(tree) for text in joined(node)}
    return names | {part for text in places for part in pieces(text)} & WORDS


def strings(tree):
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            left_out |= {id(key) for key in node.keys}
        elif isinstance(node, ast.Subscript):
            left_out.add(id(node.slice))
        elif isinstance(node, ast.Expr):
            left_out.add(id(node.value))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [f.value for f in found if isinstance(f.value, str) and id(f) not in left_out]


def joined(node):
    """The strings that an expression joins to a path, with `/` or a function that takes names."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return strings(node.right)
    if not isinstance(node, ast.Call):
        return []
    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
    takes_names = called in ("glob", "rglob", "joinpath", "with_name", "Path")
    return [text for argument in node.args for text in strings(argument)] if takes_names else []


def pieces(text):
    """The names in a path, or in a pattern of paths."""
    return re.split(r"[/*]+", text)


def test_file_names_are_spelled_by_their_owners_alone():
    found = {module: spelled(module) - SPELLED.get(module, set()) for module in MODULES}
    assert not {module: names for module, names in found.items() if names}


def test_every_exception_is_needed():
    assert not {
        module: left for module, s in SPELLED.items() if (left := s - WORDS - spelled(module))
    }


def test_a_grown_forest_stands_where_paths_say(copy):
    config = copy()
    found = Paths(config.forest_root)
    assert found.facts.is_file() and found.settings.is_file() and found.suites()
    elm = found.elm("bible")
    assert elm.path.parent == found.elms
    for file in (elm.card, elm.config, elm.readme, elm.origin, elm.result, elm.metrics):
        assert file.is_file(), file
    assert elm.weights() and not elm.checkpoints()
    stems = {file.stem for file in found.scores_of()}
    sha256 = max(stems)
    assert {file.stem for file in found.scores_of(sha256)} == {sha256}


def test_names_are_read_again_from_paths(tmp_path):
    found = Paths(str(tmp_path))
    assert paths.step_of(found.elm("law").checkpoint(1200)) == 1200
    assert paths.name_of_removed(found.readmitted("law", "20260101", "ab" * 32)) == "law"
    assert paths.name_of_removed(found.tombstone("law")) == "law"


def test_checkpoints_come_oldest_first(tmp_path):
    folder = ModelFolder(tmp_path)
    for step in (100, 20, 3):
        folder.checkpoint(step).mkdir()
    assert [paths.step_of(path) for path in folder.checkpoints()] == [3, 20, 100]
    assert ModelFolder(tmp_path / "nowhere").weights() == []


def test_an_evaluation_without_a_name_has_the_forests(tmp_path):
    found = Paths(tmp_path / "demo")
    assert found.evaluation(None) == tmp_path / "demo" / "evals" / "demo.json"
    assert found.evaluation("test").name == "test.json"
    assert found.comparison(None).name == "demo-compare.json"
