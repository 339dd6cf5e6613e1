"""`average.search=tasks`: what is asked, what is found, what the card keeps, kills and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from btm import steps
from btm.cli.main import main
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.card import Card
from btm.steps.bench import search, tasks
from btm.steps.bench.search import Tried

pytestmark = pytest.mark.usefixtures("lm_eval")
WORDS = [
    "average.search=tasks",
    "average.budget=4",
    "average.measure=false",
    "domain=speeches",
    "tasks=[btm_rolling]",
    "bench.limit=2",
    "trainer.device=cpu",
]
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: %s}
%s
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: [" yes", " no"]
doc_to_target: a
metric_list: [{metric: acc}]
"""


def mine(folder, *splits):
    """A task whose questions name the split that they are of."""
    folder.mkdir()
    files = {}
    for split in splits:
        files[split] = str(folder / f"{split}.jsonl")
        rows = [{"q": f"Is {i} of {split} even?", "a": i % 2} for i in range(4)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = "\n".join(f"{split}_split: {split}" for split in splits)
    file = folder / "mine.yaml"
    file.write_text(TASK % (json.dumps(files), named))
    return file


def asked_of(config, file):
    with tasks.harness(download=False):
        (unit,) = tasks.find([str(file)], config.bench, unreported=True)
    return {each.doc["q"].split()[3] for each in unit.loaded["tasks"]["mine"].instances}


def test_the_best_of_all_that_were_tried_is_published_and_the_card_keeps_them(copy, monkeypatch):
    config = copy(*WORDS)
    card = Card.read(steps.average(config) / "card.json")
    assert card.branch_method == "search" and len(card.candidates) == 4
    figures = [each.figures["btm_rolling"] for each in card.candidates]
    best = card.candidates[int(np.argmin(figures))]  # bits per byte
    assert min(figures) < figures[0] and len(set(figures)) == 4
    assert {name: parent.weight for name, parent in card.parents.items()} == pytest.approx(
        best.weights
    )
    assert "task search, 4 averages" in card.estimator and "does not report" in card.estimator
    forest = Forest(config.forest_root)
    assert not list(forest.paths.unwritten.glob("*.json"))
    assert not list(forest.paths.evals.glob("tasks-*"))  # only those of test text are kept
    monkeypatch.setattr(tasks, "run", None)  # it would fail
    assert steps.average(config) == forest.paths.average("search-speeches").path


def test_what_it_says_of_the_best_is_what_the_published_average_has(copy):
    config = copy(*WORDS, "average.groups=[*.mlp.*]", "average.budget=2")
    path = steps.average(config)
    card = Card.read(path / "card.json")
    best = min(card.candidates, key=lambda each: each.figures["btm_rolling"])
    assert set(best.layers) == {"*.mlp.*"}
    forest = Forest(config.forest_root)
    model = search.Model("again", path, card.sha256, "average", card)
    with tasks.harness(download=False):
        units = search._units(
            config, forest, search.searching.weighed(config, forest), search.quiet
        )
        found, losses = search._ask(config, forest, units, model, search.quiet)
    assert found == pytest.approx(best.figures) and losses == ["btm_rolling"]


def test_it_goes_on_after_a_kill_to_the_same_weights(copy, monkeypatch):
    run, left = tasks.run, [2]

    def counted(unit, model, bench):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return run(unit, model, bench)

    whole = copy(*WORDS)
    card = Card.read(steps.average(whole) / "card.json")
    again = copy_of(whole, "again")
    monkeypatch.setattr(tasks, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        steps.average(again)
    (file,) = Forest(again.forest_root).paths.unwritten.glob("*.json")
    assert len(json.loads(file.read_text())["tried"]) == 2
    left[0] = 2
    assert Card.read(steps.average(again) / "card.json").sha256 == card.sha256 and left == [0]


def copy_of(config, name):
    return replace(config, average=replace(config.average, name=name))


def test_the_documents_that_a_benchmark_reports_are_never_asked(copy, tmp_path):
    config = copy(*WORDS)
    three = mine(tmp_path / "three", "training", "validation", "test")
    assert asked_of(config, three) == {"validation"}
    assert asked_of(config, mine(tmp_path / "two", "training", "validation")) == {"training"}
    with pytest.raises(UserError, match=r"no documents but those that btm bench reports \(test\)"):
        asked_of(config, mine(tmp_path / "one", "test"))


def test_gains_are_relative_and_the_step_follows_success():
    def tried(loss, accuracy):
        return Tried([[0.0, 0.0]], {"a": loss, "b": accuracy}, ["a"])

    found = search.gains([tried(2.0, 0.5), tried(1.0, 0.5), tried(2.0, 0.75), tried(None, 1.0)])
    assert found == [0.0, 0.25, 0.25, -np.inf]
    with pytest.raises(UserError, match="no finite figure on a"):
        search.gains([tried(None, 0.5)])
    first = np.zeros((1, 2))
    assert search.proposed([], first) is first
    failed = search.proposed([tried(2.0, 0.5), tried(3.0, 0.5)], first)
    better = search.proposed([tried(2.0, 0.5), tried(1.0, 0.5)], first)
    np.testing.assert_allclose(better, failed * 1.5**1.25)


@pytest.mark.usefixtures("few_files")
def test_bad_words_are_one_line(copy, capsys):
    root = Forest(copy().forest_root).root
    base = [f"forest={root}", f"data.out={copy().data.out}", "average.method=null"]
    for words, said in {
        ("average.search=tasks", "tasks=[btm_oder]"): "did you mean 'btm_order'?",
        ("average.search=tasks", "bench.models=[bible]"): "bench.models",
        ("average.search=valid", "tasks=[btm_order]"): "give average.search=tasks with it",
        ("weights=uniform", "bench.limit=2"): "give average.search=tasks with it",
    }.items():
        assert main(["average", *base, *words]) == 2, words
        told = capsys.readouterr().err.strip()
        assert said in told and "\n" not in told, (words, told)
    assert main(["average", *base, *WORDS, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "searched (4 averages; requests to each: btm_rolling 2)" in out
    assert main(["run", *base, "average.search=tasks", "--dry-run"]) == 2
    assert "give it to btm average" in capsys.readouterr().err
