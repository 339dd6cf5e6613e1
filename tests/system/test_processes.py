"""Processes of btm: how often they collect garbage."""

import gc

from btm.cli.main import main
from btm.system.processes import collect_garbage_seldom


def test_a_command_collects_garbage_seldom(capsys):
    gc.set_threshold(700, 10, 10)
    try:
        assert main(["--help"]) == 0
        assert gc.get_threshold()[0] == 50_000 and gc.isenabled()
    finally:
        collect_garbage_seldom()
