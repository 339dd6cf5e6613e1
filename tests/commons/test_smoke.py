"""The commands of docs/commons.md that try a commons on one machine, one after another."""

import json
import os
import re
import shlex
import shutil

import pytest
from folders import ROOT

from btm.cli.main import main
from btm.forest import Forest

pytestmark = [pytest.mark.slow, pytest.mark.traced]


def commands():
    """Each command of the section: the home of whose key it uses, and its words."""
    page = (ROOT / "docs/commons.md").read_text()
    section = page.partition("## Try it on one machine")[2].partition("\n## ")[0]
    for line in re.findall(r"^    (.*btm .*)$", section, re.MULTILINE):
        home, _, words = line.partition("btm ")
        yield home.partition("=")[2].strip() or "home", shlex.split(os.path.expandvars(words))


def test_a_commons_in_a_folder_wants_gets_and_admits_an_expert(
    tmp_path, prepared_demo, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    shutil.copytree(prepared_demo, tmp_path / "data")
    (tmp_path / "btm").symlink_to(ROOT / "btm")
    for home, words in commands():
        monkeypatch.setenv("BTM_HOME", str(tmp_path / home))
        more = ["cluster=debug"] if words[0] == "run" else []
        assert main([*words, *more]) == 0, capsys.readouterr().err
    forest = Forest("experts/commons")
    assert set(forest.names()) == {"seed", "bible", "code_python", "speeches"}
    assert any("contributed by volunteer (key " in line for line in forest["speeches"].card.notes)
    capsys.readouterr()
    store = f"from=file://{tmp_path}/experts/store"
    assert main(["commons", "status", "--json", store]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["domain"] == "speeches" and row["state"] == "admitted"

    # The owner asks for the expert back; the maintainer removes it from forest and store.
    monkeypatch.setenv("BTM_HOME", str(tmp_path / "experts/ada"))
    words = ["experiment=commons_smoke", store, "domain=speeches"]
    assert main(["commons", "leave", *words, "--withdraw", "commons.reason=over"]) == 0
    monkeypatch.setenv("BTM_HOME", str(tmp_path / "home"))
    assert main(["commons", "status", store]) == 0
    assert "withdrawn" in capsys.readouterr().out
    assert main(["commons", "remove", *words]) == 0
    assert "speeches" not in Forest("experts/commons").names()
