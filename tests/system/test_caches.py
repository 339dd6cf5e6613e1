"""Caches where they cannot be kept: another place, or none, and the work goes on.

A path below a file cannot be written by root either.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from btm.forest import Forest, index
from btm.report import pictures
from btm.system import caches, notes

NOWHERE = "/dev/null/home"


@pytest.fixture(autouse=True)
def no_home(monkeypatch):
    """A user whose home cannot be written, and who has been told nothing yet."""
    monkeypatch.setenv("HOME", NOWHERE)
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notes, "_said", set())
    before = dict(os.environ)  # `prepare` adds to it
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """A folder for temporary files of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_cache_that_cannot_stand_at_home_is_private_elsewhere(temporary, monkeypatch):
    place = caches.folder("compiled")
    assert place == temporary / f"btm-{os.getuid()}" / "compiled"
    assert place.stat().st_mode & 0o077 == place.parent.stat().st_mode & 0o077 == 0
    place.chmod(0o777)  # what others can write must not be run
    with pytest.raises(PermissionError, match="others can write to it"):
        caches.folder("compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(temporary / "mine"))
    assert caches.folder("compiled") == temporary / "mine/btm/compiled"


def test_a_process_gets_folders_that_it_can_write(temporary, monkeypatch, capfd):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/dev/null/torch")
    caches.prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(caches.folder("compiled"))
    said = capfd.readouterr().err
    assert said == (
        "note: TORCHINDUCTOR_CACHE_DIR=/dev/null/torch: Not a directory; another folder is taken\n"
    )


def test_without_any_place_there_is_still_a_folder_for_torch(monkeypatch, tmp_path, capfd):
    def fails():
        raise FileNotFoundError(2, "No usable temporary directory found")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "gettempdir", fails)
        caches.prepare()
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_dir()
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        caches.prepare()
        assert os.environ["TMPDIR"] == str(tmp_path / "btm/temporary")
        with caches.scratch(tmp_path) as place:
            assert Path(place).parent == tmp_path
    assert "temporary files go to" in capfd.readouterr().err


def test_a_user_without_an_entry_in_passwd_lists_forests(forest, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert [entry.name for entry in index.entries(forest.root)]


def test_a_picture_that_cannot_be_drawn_is_a_line(tmp_path, capfd):
    old = tmp_path / "old.png"
    old.write_bytes(b"other numbers")

    def fails():
        raise ImportError("No module named 'matplotlib'\nlong story")

    assert not pictures.attempt(fails, old)
    assert not old.exists()
    said = capfd.readouterr().err
    assert said.startswith(f"note: no picture {old}, the numbers stand: ImportError")
    assert said.count("\n") == 1


TRAINING = """
import sys
from btm.cli.main import main
from btm.system import caches
caches.prepare()  # as main does, before torch's compiler is imported
from btm.train.kernels import compiled
compiled.COST = 0.0  # as if the training were long enough for it to pay
words = sys.argv[1:]
for verb in ("train", "merge", "eval"):
    own = [word for word in words if verb == "train" or not word.startswith("trainer.")]
    code = main([verb, *own, *(["expert=new"] if verb != "eval" else [])])
    if code:
        sys.exit(code)
"""


@pytest.mark.slow
def test_a_training_needs_no_home_no_compiler_and_no_pictures(copy, tmp_path, workspace):
    from btm import steps

    config = copy("branch=copy", "merge.force=true")
    steps.branch(config, "new", "bible")
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho fatal: no headers >&2; exit 1\n")
    broken.chmod(0o755)
    own = {"HOME": NOWHERE, "CXX": str(broken), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    own |= {"MPLCONFIGDIR": "/dev/null/pictures", "HF_HOME": "/dev/null/hub"}
    own |= {"TORCHINDUCTOR_CACHE_DIR": "/dev/null/torch", "TMPDIR": "/dev/null/tmp"}
    environment = {key: v for key, v in os.environ.items() if key != "XDG_CACHE_HOME"} | own
    words = [*workspace, f"forest={config.forest_root}", "merge.force=true"]
    words += ["trainer.compile=auto", "trainer.steps=40", "trainer.mirrors=[]"]
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, *words],
        cwd="/proc",  # where nothing can be written
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "note: torch cannot compile this model here (" in done.stderr
    card = Forest(config.forest_root)["new"].card
    assert any(line.startswith("torch cannot compile this model here") for line in card.notes)
    assert (Path(config.forest_root) / f"evals/{Path(config.forest_root).name}.json").is_file()
