"""What `durable` promises holds in every state that a power cut may leave, and needs each of its
syncs and renames.
"""

import ast
import errno
import types
from pathlib import Path
from unittest.mock import patch

import pytest
from power_cut import recorded, states

from btm.system import durable

SOURCE = Path(durable.__file__).read_text()
OLD, NEW = (
    {"a": b"old a", "sub/b": b"old b"},
    {"a": b"a new text", "sub/b": b"another", "c": b"a third"},
)


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def visible(state, folder):
    """The files of a folder in a state, or None if it is not there; what is scratch is not
    visible.
    """
    if folder not in state:
        return None
    inside = {
        path.removeprefix(f"{folder}/"): data
        for path, data in state.items()
        if path.startswith(f"{folder}/")
    }
    return {path: data for path, data in inside.items() if data is not None}


def new_file(module, root):
    with module.publish_file(root / "f") as handle:
        handle.write(b"content")
    return lambda s: s.get("f") in (None, b"content"), lambda s: s.get("f") == b"content"


def file_in_new_folders(module, root):
    module.write_json(root / "x/y/f", 1)
    return lambda s: s.get("x/y/f") in (None, b"1\n"), lambda s: s.get("x/y/f") == b"1\n"


def created_file(module, root):
    with module.publish_file(root / "f", replace=False) as handle:
        handle.write(b"content")
    return lambda s: s.get("f") in (None, b"content"), lambda s: s.get("f") == b"content"


def created_file_where_there_are_no_links(module, root):
    with patch("os.link", side_effect=PermissionError(errno.EPERM, "no hard links here")):
        return created_file(module, root)


def replaced_file(module, root):
    with module.publish_file(root / "old/a") as handle:
        handle.write(b"content")
    return (
        lambda s: s.get("old/a") in (OLD["a"], b"content"),
        lambda s: s.get("old/a") == b"content",
    )


def new_folder(module, root):
    with module.publish_folder(root / "d") as folder:
        fill(folder, NEW)
    return lambda s: visible(s, "d") in (None, NEW), lambda s: visible(s, "d") == NEW


def replaced_folder(module, root):
    with module.publish_folder(root / "old", replace=True) as folder:
        fill(folder, NEW)
    return lambda s: visible(s, "old") in (OLD, NEW), lambda s: visible(s, "old") == NEW


def replaced_folder_where_none_can_be_exchanged(module, root):
    module._exchange = lambda one, other: False
    replaced_folder(module, root)
    return lambda s: visible(s, "old") in (OLD, None, NEW), lambda s: visible(s, "old") == NEW


def moved_folder(module, root):
    module.rename_folder(root / "old", root / "sealed/old")

    def one_place(s):
        return (visible(s, "old"), visible(s, "sealed/old")) in ((OLD, None), (None, OLD))

    return one_place, lambda s: visible(s, "sealed/old") == OLD


def removed_folder(module, root):
    module.remove_folder(root / "old")
    return lambda s: visible(s, "old") in (OLD, None), lambda s: visible(s, "old") is None


def new_folders(module, root):
    module.make_folder(root / "x/y/z")
    return lambda s: True, lambda s: "x/y/z" in s


def appended_line(module, root):
    module.append_line(root / "sealed/log", "second")
    return lambda s: s["sealed/log"].startswith(b"first\n"), lambda s: True


SCENARIOS = [
    new_file,
    file_in_new_folders,
    created_file,
    created_file_where_there_are_no_links,
    replaced_file,
    new_folder,
    replaced_folder,
    replaced_folder_where_none_can_be_exchanged,
    moved_folder,
    removed_folder,
    new_folders,
    appended_line,
]


def broken_promise(scenario, module, root):
    """Play a scenario on an empty disk; return the first state that breaks its promise, or None."""
    fill(
        root, {f"old/{name}": content for name, content in OLD.items()} | {"sealed/log": b"first\n"}
    )
    with recorded(root, module) as recorder:
        begun = len(recorder.log)
        always, at_the_end = scenario(module, root)
    root_inode = root.stat().st_ino
    for cut in range(begun, len(recorder.log) + 1):
        for state in states(recorder.log[:cut], root_inode, seed=cut):
            if not always(state):
                return f"after operation {cut - begun} of {len(recorder.log) - begun}", state
            if cut == len(recorder.log) and not at_the_end(state):
                return "after it returned", state
    return None


def fresh(source=SOURCE):
    module = types.ModuleType("durable_copy")
    exec(compile(source, "durable_copy", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_promises_hold_after_a_power_cut(scenario, tmp_path):
    assert broken_promise(scenario, fresh(), tmp_path) is None


SYNCS_AND_RENAMES = {
    "fsync",
    "sync_folder",
    "sync_tree",
    "rename",
    "replace",
    "link",
    "_link",
    "renameat2",
    "rename_folder",
    "remove_folder",
}


def call_name(node):
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


CALLS = [
    (node.lineno, node.col_offset, ast.unparse(node))
    for node in ast.walk(ast.parse(SOURCE))
    if isinstance(node, ast.Call) and call_name(node) in SYNCS_AND_RENAMES
]


def without(place):
    """The module with one call removed; as if it had been there and had said that all is well."""

    class Remove(ast.NodeTransformer):
        def visit_Call(self, node):
            if (node.lineno, node.col_offset) == place:
                return ast.Constant(0)
            return self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Remove().visit(ast.parse(SOURCE))))


def test_all_of_the_calls_are_found():
    assert len(CALLS) >= 15
    assert {name.partition("(")[0].rpartition(".")[2] for _, _, name in CALLS} == SYNCS_AND_RENAMES


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}:{call[2]}")
def test_none_of_the_calls_can_be_left_out(call, tmp_path):
    mutant = fresh(without(call[:2]))
    for number, scenario in enumerate(SCENARIOS):
        exchange = mutant._exchange
        (tmp_path / str(number)).mkdir()
        try:
            if broken_promise(scenario, mutant, tmp_path / str(number)) is not None:
                return
        except OSError:
            return
        mutant._exchange = exchange
    pytest.fail(f"nobody notices that line {call[0]} does not {call[2]}")
