"""A module imports from lower floors alone (docs/design.md); hydra, submitit and torch stay where they belong."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "btm"
FLOORS = [
    ["errors", "durable", "posterior", "filters", "gate", "codec", "queries", "processes"],
    ["lease", "checks", "choices"],
    ["validation"],
    ["config", "weights", "report", "mirrors", "card"],
    ["fairseq"],
    ["schedule", "optimizers", "average", "data", "models", "evaluate", "ledger", "sums", "readme", "sparse"],
    ["tombstone", "metrics", "sharded", "kernels", "discover"],
    ["seal", "checkpoint"],
    ["forest"],
    ["train", "score", "importance", "interop"],
    ["ensemble", "online", "sparse_training", "fairseq_training"],
    ["phase", "averages"],
    ["distributed"],
    ["steps"],
    ["registry"],
    ["baselines"],
    ["launch"],
    ["paper"],
    ["preflight"],
    ["plan", "doctor"],
    ["verbs"],
    ["cli"],
]
NO_TORCH = {
    "errors",
    "durable",
    "lease",
    "checks",
    "posterior",
    "filters",
    "gate",
    "codec",
    "schedule",
    "weights",
    "choices",
    "validation",
    "config",
    "queries",
    "card",
    "report",
    "average",
    "evaluate",
    "sums",
    "readme",
    "tombstone",
    "registry",
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def home(path):
    """The name on the list of floors: a module, or the package that a file is part of."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(name):
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imports(path, *, annotations_too=False):
    """Every module that a file imports, lazily too, but not those needed by annotations alone."""
    tree = ast.parse(path.read_text())
    skipped = set()
    if not annotations_too:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.If)
                and isinstance(node.test, ast.Name)
                and node.test.id == "TYPE_CHECKING"
            ):
                skipped |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "btm":
                yield from (f"btm.{alias.name}" for alias in node.names)
            else:
                yield node.module


def inside_btm(path):
    return {
        name.split(".")[1] for name in imports(path) if name.startswith("btm.") and name != "btm.__version__"
    }


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.name != "__init__.py" or p.parent != PACKAGE], ids=str
)
def test_imports_come_from_lower_floors(path):
    own = floor_of(home(path))
    for name in inside_btm(path) - {home(path)}:
        assert floor_of(name) < own, f"{home(path)} (floor {own}) imports {name} (floor {floor_of(name)})"


def test_every_module_has_a_floor():
    assert {home(p) for p in modules()} - {"__init__"} == {name for names in FLOORS for name in names}


@pytest.mark.parametrize(("package", "allowed"), [("hydra", {"cli"}), ("submitit", {"launch"})])
def test_launchers_stay_in_one_place(package, allowed):
    users = {home(p) for p in modules() if any(name.split(".")[0] == package for name in imports(p))}
    assert users <= allowed


def test_mathematics_and_registry_formats_need_no_torch():
    for path in modules():
        if home(path) in NO_TORCH:
            assert not {"torch", "transformers"} & {name.split(".")[0] for name in imports(path)}, path


def test_files_stay_readable():
    long = {p.name: n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long
