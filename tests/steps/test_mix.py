"""`btm mix`: the ranking, what it costs a second time, what is left on disk, refusals."""

import json

import pytest
from folders import tree

from btm import steps
from btm.cli.main import main
from btm.forest import Forest, publish
from btm.forest.card import Card
from btm.steps.mix import rows_of

TWO = "mix.candidates=[{bible: 1}, {speeches: 1, bible: 3}]"


def words(config):
    return [f"forest={config.forest_root}", f"data.out={config.data.out}", "domain=speeches"]


def test_mixtures_are_ranked_by_the_loss_of_their_averages(copy):
    config = copy(TWO, "mix.samples=2", "domain=speeches", "mix.scale=0.5")
    forest = Forest(config.forest_root)
    before = {path.name for path in forest.paths.averages.iterdir()}
    ranking = steps.mix(config)
    means = [each.mean for each in ranking.mixtures]
    assert means == sorted(means) and len(means) == 4
    assert {path.name for path in forest.paths.averages.iterdir()} == before
    stored = json.loads((forest.root / "evals/forest-mix.json").read_text())
    assert stored == json.loads(json.dumps(ranking.to_json()))
    assert [row["rank"] for row in rows_of(ranking)] == [1, 2, 3, 4]
    # Each is the average that btm average makes of the same shares.
    mine = next(
        each for each in ranking.mixtures if each.shares == {"bible": 0.75, "speeches": 0.25}
    )
    path = publish.average(
        forest,
        "mine",
        mine.shares,
        settings=publish.Settings(method="task_arithmetic", base=forest["seed"].path, scale=0.5),
    )
    assert Card.read(path / "card.json").sha256 == mine.sha256


def test_a_mixture_that_was_scored_costs_nothing(copy, monkeypatch):
    config = copy(TWO, "domain=speeches")
    first = steps.mix(config)
    monkeypatch.setattr(publish, "trial", lambda *a, **k: pytest.fail("it was made again"))
    assert steps.mix(config).mixtures == first.mixtures


def test_samples_are_a_function_of_the_seed_and_their_number(copy):
    few, more = (
        {tuple(each.shares.items()) for each in steps.mix(copy_of).mixtures}
        for copy_of in _sampled(copy)
    )
    assert few < more and len(more) == 3


def _sampled(copy):
    config = copy("mix.samples=2", "domain=speeches")
    yield config
    config.mix.samples = 3
    yield config


def test_without_a_domain_the_mean_of_all_domains_trained_on_counts(copy):
    ranking = steps.mix(copy(TWO))
    assert set(ranking.text) == {"bible", "code_python", "speeches"}
    for each in ranking.mixtures:
        assert each.mean == pytest.approx(sum(each.nats_per_token.values()) / 3)


BAD = {
    "mix.candidates=[{lwa: 1}]": "no ELM 'lwa'",
    "mix.candidates=[{bible: -1}]": "not negative",
    "mix.candidates=[{bible: 0}]": "all weights are 0",
    "mix.candidates=[{bible: 1},{bible: 2}]": "leave one out",
    "mix.candidates=[bible]": "wanted [{expert: weight",
    "mix.candidates=[]": "which mixtures?",
    "mix.samples=-1": "wanted 0 or more",
    "mix.samples=100000": "at most",
    "mix.scale=0": "above 0",
    "mix.scale=2": "(0, 1]",
    "mix.seed=3": "has no effect here",
    "domain=lwa": "lwa",
    "weights=uniform": "did you mean mix.candidates",
    "eval.name=grow-x": "give another",
}


def test_bad_words_are_one_line_and_leave_nothing(copy, capsys):
    config = copy()
    root = Forest(config.forest_root).root
    before = tree(root)
    for word, said in BAD.items():
        given = [TWO, word]
        for flags in ([], ["--dry-run"]):
            assert main(["mix", *words(config), *given, *flags]) == 2, word
            told = capsys.readouterr().err.strip()
            assert said in told and "\n" not in told, (word, told)
    assert tree(root) == before


def test_the_command_and_its_dry_run(copy, capsys):
    config = copy()
    root = Forest(config.forest_root).root
    before = tree(root)
    assert main(["mix", *words(config), TWO, "--dry-run", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["tokens"] > 0 and "2 mixtures on valid of speeches" in plan["what"]
    assert tree(root) == before
    assert main(["mix", *words(config), TWO, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["mixtures"]) == 2
    assert main(["mix", *words(config), TWO]) == 0
    assert "best first" in capsys.readouterr().out
