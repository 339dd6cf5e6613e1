"""scripts/release --dry-run, and what the metadata say of the package."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from hashlib import sha256

import pytest
from folders import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
def test_a_dry_run_builds_and_checks_a_release(tmp_path):
    if not (ROOT / ".venv-release").exists() and not os.environ.get("CI"):
        pytest.skip("scripts/release tools makes .venv-release")
    command = ["scripts/release", "--dry-run", "--out", tmp_path / "dist"]
    done = subprocess.run(
        [*command, "--python", sys.executable], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = {file.name: file for file in (tmp_path / "dist").iterdir()}
    (wheel,) = (file for name, file in files.items() if name.endswith(".whl"))
    with zipfile.ZipFile(wheel) as archive:
        assert {"btm/conf/config.yaml", "btm/data/demo/suite.json"} <= {*archive.namelist()}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(metadata).decode()
    assert "# btm" in description and "more (docs/data.md)" in description
    assert re.findall(r"\]\((?!https?:)[^)]*\)", description) == [], "links lead nowhere on PyPI"
    (statement,) = (file for name, file in files.items() if name.endswith(".intoto.json"))
    subjects = json.loads(statement.read_text())["subject"]
    assert len(subjects) == 3
    for subject in subjects:
        digest = sha256(files[subject["name"]].read_bytes()).hexdigest()
        assert subject["digest"] == {"sha256": digest}
    (sbom,) = (file for name, file in files.items() if name.endswith(".cdx.json"))
    parts = json.loads(sbom.read_text())
    assert parts["metadata"]["component"]["name"] == PROJECT["name"]
    wanted = {re.split(r"[<>=\[]", line)[0] for line in PROJECT["dependencies"]}
    assert wanted <= {part["name"] for part in parts["components"]}


def test_the_page_on_installing_lists_every_extra_and_what_it_brings():
    page = (ROOT / "docs/install.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE))
    for extra, packages in PROJECT["optional-dependencies"].items():
        if extra != "dev":
            names = {re.split(r"[<>=;\[ ]", line)[0] for line in packages}
            assert names == {*re.findall(r"`([^`]+)`", rows.pop(extra))}, extra
    assert set(rows) == {"dev"}
