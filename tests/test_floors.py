"""A module imports from lower floors alone, and no modules import one another (docs/design.md)."""

import pytest

import structure

MODULES = structure.modules()
# Rooms and modules that never import torch or transformers.
NO_TORCH = ("errors", "system", "config", "report")
NO_TORCH_MODULES = (
    *(
        f"btm.ensemble.{name}"
        for name in ("posterior", "tracking", "gate", "priors", "rule", "evaluate")
    ),
    *(f"btm.models.{name}" for name in ("average", "blockwise", "weights")),
    "btm.train.schedule",
)


@pytest.fixture(scope="module")
def arrows():
    return structure.graph()


@pytest.mark.parametrize("module", [module for module in MODULES if module != "btm"])
def test_imports_come_from_lower_floors(module, arrows):
    room = structure.room_of(module)
    for other in arrows[module]:
        if structure.room_of(other) != room:
            assert structure.floor_of(structure.room_of(other)) < structure.floor_of(room), other


def test_no_modules_import_one_another(arrows):
    assert not structure.circles(arrows)


def test_every_room_has_a_floor(arrows):
    assert {structure.room_of(module) for module in arrows} == {
        r for rooms in structure.FLOORS for r in rooms
    }


def users(package, *, lazy=True):
    """The modules that import a package."""
    return {
        module
        for module, path in MODULES.items()
        if any(name.partition(".")[0] == package for name in structure.imports(path, lazy=lazy))
    }


def test_hydra_and_submitit_stay_in_one_place():
    assert users("hydra") <= {"btm.cli.compose"}
    assert {structure.room_of(module) for module in users("submitit")} <= {"launch"}


@pytest.mark.slow
def test_settings_files_and_mathematics_need_no_torch():
    assert all(any(m.startswith(name) for m in MODULES) for name in NO_TORCH_MODULES)
    torch = users("torch") | users("transformers")
    assert not [
        m for m in torch if structure.room_of(m) in NO_TORCH or m.startswith(NO_TORCH_MODULES)
    ]
    at_once = users("torch", lazy=False) | users("transformers", lazy=False)
    assert not [module for module in at_once if structure.room_of(module) == "forest"]


def test_files_stay_readable():
    assert not {
        m: n for m, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 440
    }


def test_tests_stand_in_the_rooms_that_they_test():
    tests = structure.ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")} - {
        tests.relative_to(tests)
    }
    for folder in folders:
        of_no_room = folder.parts[0] in (
            "scripts",
            "gpu",
        )  # what stands beside the package; a machine
        assert of_no_room or (structure.PACKAGE / folder).is_dir(), folder
