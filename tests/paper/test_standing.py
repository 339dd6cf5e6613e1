"""A reproduction at the place of another is refused before anything is trained."""

import pytest
from launch.processes import Forked, children, is_over, until

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


@pytest.mark.slow
def test_a_study_ends_with_the_pool_that_was_killed(workspace, tmp_path):
    words = [*words_of(workspace, tmp_path / "out"), "paper.steps=100000", "paper.parallel=1"]
    with Forked("paper", *words) as running:
        log = tmp_path / "out/studies/forest-0.log"
        until(lambda: log.exists() and "step" in log.read_text())
        studies_at_work = children(running.pid)
        running.kill()
    assert studies_at_work
    until(lambda: all(is_over(pid) for pid in studies_at_work))
