"""Hints that install an optional dependency: right in a clone and from a wheel, and never under the
name of the stranger's project that `btm` is on the package index.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from folders import ROOT

from btm.system import extras

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STRANGER = re.compile(r"\bbtm\[[a-z]|pip install [^\n]*['\" ]btm['\" \[]")


@pytest.fixture
def wheel(tmp_path):
    """The package as a wheel leaves it: no pyproject.toml beside it."""
    return tmp_path / "site-packages" / "btm"


def test_the_distribution_has_a_name_of_its_own():
    assert PROJECT["name"] == extras.DISTRIBUTION == "branch-train-merge"
    assert list(PROJECT["scripts"]) == ["btm", "btm-lm-eval"]


def test_in_a_clone_its_own_folder_is_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "bin" / "python"))
    assert extras.install("parquet") == ".venv/bin/python -m pip install -e '.[parquet]'"


def test_elsewhere_the_folder_of_the_clone_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert extras.install("int8").endswith(f" install -e '{ROOT}[int8]'")


def test_from_a_wheel_the_distribution_is_named(wheel):
    assert extras.install("parquet", wheel).endswith(" install 'branch-train-merge[parquet]'")


@pytest.mark.parametrize("active", [True, False])
def test_pip_is_that_of_this_interpreter(monkeypatch, tmp_path, wheel, active):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "pip").touch(0o755)
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setenv("PATH", f"{own if active else other}{os.pathsep}/usr/bin")
    said = extras.install("int8", wheel)
    assert said.startswith("pip install " if active else f"{str(own / 'python').lstrip('/')} -m")


def test_nothing_names_the_project_of_a_stranger():
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.yaml", "*.ipynb", "scripts", ".ci"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    own = str(Path(__file__).relative_to(ROOT))
    wrong = {
        name: found
        for name in listed
        if name != own and (found := STRANGER.findall((ROOT / name).read_text()))
    }
    assert not wrong


def test_every_extra_that_a_page_names_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {
        extra
        for page in pages
        for group in re.findall(
            r"(?:install -e '\.|branch-train-merge)\[([\w,]+)\]", page.read_text()
        )
        for extra in group.split(",")
    }
    assert named
    assert named <= {*PROJECT["optional-dependencies"]}
