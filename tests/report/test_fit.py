"""Tables fit the terminal: no line is wider, no number is cut, and what is left out is named."""

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios

import pytest
from folders import DEMO, uncovered
from rich.cells import cell_len

from btm.cli import main
from btm.report.tables import table

pytestmark = [pytest.mark.slow, pytest.mark.traced]

LONG = ("congressional-records-of-the-19th-century", "a_collection_of_novels_nobody_reads.v2")
ROWS = [
    {"name": name, "state": "ELM", "parents": {name: 0.5, "seed": 0.25}, "tokens": 1234567890}
    | {"total tokens": 98765432109, "valid_nats": 5.123, "why": "it was " * 12, "sha256": "f" * 64}
    for name in LONG
]


def widest(text):
    return max(map(cell_len, text.splitlines()))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 400])
def test_a_table_fits(width):
    text = table(ROWS, "a title " * 20, width)
    assert widest(text) <= width
    shown = "".join(text.split())
    for name in LONG:  # wrapped, but whole
        assert width < 60 or name[:16] in text
    for number, column in (("1,234,567,890", "tokens"), ("98,765,432,109", "total tokens")):
        left = text.partition("no room for:")[2]
        assert number in text or column.split()[0] in left
    assert ("noroomfor" in shown) == (width < 140)


def test_what_is_needed_least_goes_first():
    text = table(ROWS, "", 80, spare=("tokens", "total tokens"))
    left = text.partition("no room for: ")[2]
    assert left.startswith("tokens, total tokens")
    assert "why" not in left


def test_without_a_terminal_nothing_is_cut():
    text = table(ROWS, "a title " * 40)
    lines = text.splitlines()
    assert len(lines) == 1 + 1 + 2 + len(ROWS)
    assert "f" * 64 in text
    assert "no room" not in text


def test_wide_letters_count_as_they_are_seen():
    rows = [{"name": "知識" * 20, "tokens": 5, "why": "ß" * 30}]
    assert widest(table(rows, "", 50)) <= 50


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """Words of a forest whose domains have long names, grown through the command line."""
    root = tmp_path_factory.mktemp("wide")
    for name, source in zip((*LONG, "novel"), ("bible", "speeches", "novels"), strict=True):
        shutil.copytree(DEMO / source, root / "texts" / name)
    words = ["experiment=smoke", "cluster=debug", f"data.root={root / 'texts'}", "run.rounds=[]"]
    words += [
        f"data.out={root / 'data'}",
        f"forest={root / 'forest'}",
        f"run.domains={','.join(LONG)}",
    ]
    words += ["trainer.steps=2", "seed.steps=2", "score.max_tokens=256", "merge.force=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        assert main.main(["run", *words]) == 0
    (root / "forest/elms/a stray file with a long name for verify to speak of.txt").touch()
    return words


VERBS = [
    *(["run"], ["run", "--dry-run"], ["prepare"], ["ls"], ["show", f"expert={LONG[0]}"], ["eval"]),
    *(["compare"], ["doctor"], ["verify"], ["gc"], ["gc", "--dry-run"], ["lineage"]),
    ["diff", f"expert={LONG[0]}", f"against={LONG[1]}"],
    ["branch", "expert=a-third-with-a-very-long-name", f"domain={LONG[0]}", "--dry-run"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_fits_80_columns(verb, forest, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    wanted = forest if verb[0] in ("run", "prepare") else forest[4:6]
    capsys.readouterr()
    assert main.main([*verb, *wanted]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    paths = ("numbers: ", "picture: ", "note: ")  # sentences, which a terminal wraps
    tables = [line for line in out.splitlines() if not line.startswith(paths)]
    assert max(map(cell_len, tables), default=0) <= 80, out
    assert main.main([*verb, *wanted, "--json"]) == 0  # which no width changes
    monkeypatch.setenv("COLUMNS", "400")
    if verb[0] == "ls":
        main.main([*verb, *wanted])
        assert "no room" not in capsys.readouterr().out


def test_the_width_is_that_of_the_terminal(forest):
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    env = {key: value for key, value in uncovered().items() if key != "COLUMNS"}
    command = [sys.executable, "-m", "btm.cli", "ls", forest[5]]
    done = subprocess.run(command, stdout=inner, stderr=subprocess.PIPE, env=env)
    os.close(inner)
    said = b""
    try:
        while part := os.read(outer, 65536):
            said += part
    except OSError:  # the other end is closed
        pass
    assert done.returncode == 0
    lines = said.decode().replace("\r", "").splitlines()
    assert 60 < max(map(cell_len, lines)) <= 72
    piped = subprocess.run(command, capture_output=True, text=True, env=env).stdout
    assert "sha256" in piped.splitlines()[2]
