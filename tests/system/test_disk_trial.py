"""A disk is tried by doing what forests need of it."""

from pathlib import Path

import pytest

from btm.system import disk_trial


def test_a_disk_of_this_machine_keeps_a_forest_safe_and_is_left_as_it_was(tmp_path):
    trials = disk_trial.try_out(tmp_path)
    assert [trial.name for trial in trials if trial.needed and not trial.works] == []
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(tmp_path):
    with pytest.raises(OSError, match="/proc/self"):
        disk_trial.try_out(Path("/proc/self"))


def test_the_kind_of_a_file_system():
    assert disk_trial.kind_of(Path("/proc/self")) == "proc"
