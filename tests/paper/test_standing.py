"""A reproduction at the place of another is refused before anything is trained."""

from pathlib import Path

import pytest
from launch.processes import Forked, until

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.paper.studies import studies


def words_of(workspace, out):
    data = [word for word in workspace if word.startswith("data.")]
    return ["size=smoke", "data=folder", *data, "data.name=smoke", f"paper.out={out}"]


def test_other_steps_at_the_same_place_are_refused(workspace, texts, tmp_path, capsys):
    words = [*words_of(workspace, tmp_path), "trainer.threads=1"]
    config = compose([*words, "paper.steps=8"], "paper")
    suite = steps.prepare(config)
    forest = studies(config, suite.training_domains())[0].cycle
    steps.seed(forest)
    for flag in ([], ["--dry-run"]):
        assert main(["paper", *words, "paper.steps=16", *flag]) == 2
        line = capsys.readouterr().err.strip()
        assert "seed.steps was 5, now 7 (forest-0/seed)" in line
        assert "another paper.out=DIR" in line and line.count("\n") == 0
    assert main(["paper", *words, "paper.steps=8", "--dry-run"]) == 0


def below(pid):
    """The processes that a process has started, and those that they have."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in files for child in file.read_text().split()]
    return found + [each for child in found for each in below(child)]


def works(pid):
    """Whether a process runs: one that ended and was not waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_a_study_ends_with_the_pool_that_was_killed(workspace, tmp_path):
    words = [*words_of(workspace, tmp_path / "out"), "paper.steps=100000", "paper.parallel=1"]
    with Forked("paper", *words) as running:
        log = tmp_path / "out/studies/forest-0.log"
        until(lambda: log.exists() and "step" in log.read_text())
        studies_at_work = below(running.pid)
        running.kill()
    assert studies_at_work
    until(lambda: not any(works(pid) for pid in studies_at_work))
