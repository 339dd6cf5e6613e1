"""The live table of a cycle."""

import io

import pytest

from btm.launch.board import Board
from btm.launch.records import Records


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "state", ["running", "queued", "ended", "ready", "waiting", "failed", "blocked", "cancelled"]
)
def test_every_state_that_a_driver_shows_has_its_place(tmp_path, state):
    terminal = Terminal()
    board = Board(terminal, Records(tmp_path))
    job = {"state": state, "try": 1, "id": "1_0", "message": "why"}
    board.show({"jobs": {"train-law": job}, "counts": {"submitted": 1}, "finished": False})
    board.close()
    assert "train-law" in terminal.getvalue()
