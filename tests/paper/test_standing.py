"""A reproduction at the place of another is refused before anything is trained."""

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.paper.studies import studies


def test_other_steps_at_the_same_place_are_refused(workspace, texts, tmp_path, capsys):
    data = [word for word in workspace if word.startswith("data.")]
    words = ["size=smoke", "data=folder", *data, "data.name=smoke", f"paper.out={tmp_path}"]
    words += ["trainer.threads=1"]
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
