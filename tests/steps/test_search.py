"""`average.search=valid`: the gradient, what is found, what the card says, kills and refusals."""

import json

import numpy as np
import pytest
import torch
from folders import tree

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.forest import Forest, publish
from btm.forest.card import Card
from btm.models import causal_lm
from btm.models.gradient_of_average import AverageWithGradient, groups_of
from btm.report import Reporter
from btm.steps import rederive

WORDS = ["average.search=valid", "average.budget=6", "average.measure=false", "domain=speeches"]


def searched(config):
    return Card.read(steps.average(config) / "card.json")


def test_the_gradient_is_that_of_automatic_differentiation(forest):
    """Against autograd through Σ_j w_j θ_j, with a group of its own for the MLPs."""
    elms = [forest[name] for name in ("bible", "speeches", "seed")]
    folders = [elm.path for elm in elms]
    model = causal_lm.load_trainable(folders[0], "cpu").eval()
    mixture = AverageWithGradient(folders, ["*.mlp.*"], model)
    weights = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    ids = torch.arange(24).view(2, 12) % 200
    mixture.place(weights)
    loss = causal_lm.mean_nll(model, ids[:, :-1], ids[:, 1:])
    loss.backward()

    held = [dict(causal_lm.load_trainable(f, "cpu").named_parameters()) for f in folders]
    w = torch.tensor(weights, requires_grad=True)
    mixed = {
        name: sum(w[int(".mlp." in name), j].float() * held[j][name].detach() for j in range(3))
        for name in held[0]
    }
    logits = torch.func.functional_call(model, mixed, (ids[:, :-1],)).logits
    own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    own.backward()
    assert float(loss.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    np.testing.assert_allclose(mixture.gradient(), w.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_the_last_pattern_that_matches_gives_the_group():
    found = groups_of(["a.mlp.w", "a.attn.w", "b"], ["a.*", "*.mlp.*"])
    assert found == {"a.mlp.w": 2, "a.attn.w": 1, "b": 0}


def test_it_lowers_the_loss_and_the_card_says_how(copy):
    config = copy(*WORDS)
    card = searched(config)
    assert card.branch_method == "search" and "seed" in card.parents
    assert "6 losses" in card.estimator and "speeches/valid" in card.estimator
    began, found = (
        float(card.estimator.split(word)[1].split()[0].rstrip(","))
        for word in ("began at ", "found ")
    )
    assert found < began
    assert not list(Forest(config.forest_root).paths.unwritten.glob("*.json"))
    assert "gradient search" in (
        Forest(config.forest_root).paths.average("search-speeches").readme.read_text()
    )


def test_what_it_says_it_found_is_what_stands(copy):
    """The loss that the search reports is that of the published model, measured on its own."""
    config = copy(*WORDS, "average.groups=[*.mlp.*]", "trainer.valid_tokens=1024")
    path = steps.average(config)
    card = Card.read(path / "card.json")
    assert set(card.recipe["layers"]) == {"*.mlp.*"}
    config.average.measure = True
    measure = steps.measuring(config, Forest(config.forest_root))
    nats = measure(path, card)["speeches"].nats
    assert nats == pytest.approx(float(card.estimator.split("found ")[1].split()[0]), abs=2e-3)


class Stopped(Exception):
    """What a signal raises."""


class Stops(Reporter):
    """Stops a search after a few batches."""

    def __init__(self):
        self.left = 4

    def alive(self):
        self.left -= 1
        if not self.left:
            raise Stopped


def test_it_goes_on_after_a_kill_to_the_same_bytes(copy, workspace, tmp_path):
    one = [*WORDS, "trainer.batch_size=64"]  # a loss is one batch
    config = copy(*one)
    whole = searched(config)

    again = compose([*workspace, f"forest={tmp_path / 'forest'}", *one, "average.name=again"])
    with pytest.raises(Stopped):
        steps.average(again, Stops())
    (file,) = Forest(again.forest_root).paths.unwritten.glob("*.json")
    assert 0 < len(json.loads(file.read_text())["losses"]) < 6
    assert searched(again).sha256 == whole.sha256


def test_the_same_search_is_not_made_again(copy, monkeypatch):
    config = copy(*WORDS)
    path = steps.average(config)
    monkeypatch.setattr(publish, "average", lambda *a, **k: pytest.fail("it was made again"))
    assert steps.average(config) == path


def test_a_search_that_stands_is_none_of_another_number_type_or_other_groups(copy):
    words = [*WORDS, "average.budget=1", "average.name=deploy"]
    first = searched(copy(*words))
    half = searched(copy(*words, "average.dtype=bf16"))
    assert half.recipe == {"dtype": "BF16"} and half.sha256 != first.sha256
    grouped = searched(copy(*words, "average.groups=[*.mlp.*]"))
    assert list(grouped.recipe["layers"]) == ["*.mlp.*"]
    assert searched(copy(*words)).recipe == {}  # the words of the other begin as these do


def test_a_rederivation_says_that_it_is_searched_anew(copy):
    config = copy(*WORDS)
    steps.average(config)
    rows = rederive.rederive(config, "speeches", reason="asked for")
    row = next(row for row in rows if row["name"] == "search-speeches")
    assert row["now"] == "deleted" and "btm average average.search=valid" in row["why"]


BAD = {
    "weights=token": "leave out weights=",
    "weights={bible: 1}": "leave out weights=",
    "average.method=ties": "is another: leave one out",
    "average.layers={*.mlp.*: {bible: 1}}": "leave one out",
    "average.scale=0.5": "has no effect here",
    "average.budget=0": "wanted 1 or more",
    "average.groups=[*.nothing.*]": "no tensor is called",
    "average.search=test": "choose one of valid, tasks",
    "domain=lwa": "lwa",
    "average.experts=[lwa]": "lwa",
    "average.experts=[seed]": "wanted two",
}


def test_bad_words_are_one_line_and_leave_nothing(copy, capsys):
    config = copy()
    root = Forest(config.forest_root).root
    before = tree(root)
    base = [f"forest={root}", f"data.out={config.data.out}", "average.method=null"]
    for word, said in BAD.items():
        for flags in ([], ["--dry-run"]):
            assert main(["average", *base, *WORDS, word, *flags]) == 2, word
            told = capsys.readouterr().err.strip()
            assert said in told and "\n" not in told, (word, told)
    for word in ("average.budget=3", "average.groups=[*.mlp.*]"):
        assert main(["average", *base, "weights=uniform", word]) == 2
        assert "give average.search=valid" in capsys.readouterr().err
    assert tree(root) == before


def test_a_dry_run_says_what_is_searched(copy, capsys):
    config = copy()
    root = Forest(config.forest_root).root
    before = tree(root)
    base = [f"forest={root}", f"data.out={config.data.out}"]
    assert main(["average", *base, *WORDS, "--dry-run"]) == 0
    assert "searched (6 losses on valid of speeches)" in capsys.readouterr().out
    assert tree(root) == before
