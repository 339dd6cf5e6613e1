"""Choices by likelihood and inference by a classifier, on a real forest."""

import numpy as np
import pytest
import torch

from btm.config.reader import ReaderConfig
from btm.errors import UserError
from btm.forest import find_model
from btm.readers import apart, train
from btm.readers.choices.pairs import overlap
from btm.readers.choices.questions import LABELS
from btm.readers.ground import Ground
from btm.readers.heads import Mixed
from btm.readers.reader import Reader
from btm.readers.registry import Spec, resolve
from btm.readers.setting import Answer, Example, QASetting


@pytest.fixture
def ground(forest):
    return Ground(forest, "forest", [find_model(forest, elm.name) for elm in forest.experts()])


def choice(question, candidates, right):
    return Example(QASetting(question, candidates=candidates), (Answer(candidates[right]),))


def logp(ground, model, text):
    whole = torch.tensor([[ground.start, *text]])
    with torch.inference_mode():
        every = model(whole).logits.log_softmax(-1)[0, :-1]
    return every.gather(1, whole[0, 1:, None])[:, 0].double().numpy()


def test_the_likelihood_of_an_ensemble_is_bayes_rule_token_by_token(ground):
    context, last = (ground.tokens(text).ids for text in ("In the beginning", " God created"))
    (found,) = apart.likelihoods(ground, [(context, last)], 100)
    each = np.array([logp(ground, m, [*context, *last]) for m in ground.loaded])
    total, weights = 0.0, np.exp(each[:, : len(context)].sum(1))
    for t in range(len(context), each.shape[1]):
        mixed = weights / weights.sum() @ np.exp(each[:, t])
        total += np.log(mixed)
        weights = weights * np.exp(each[:, t])
    assert found == pytest.approx(total, abs=1e-4)
    (alone,) = apart.likelihoods(ground, [(context, last)], 1)
    best = each[:, : len(context)].sum(1).argmax()
    assert alone == pytest.approx(each[best, len(context) :].sum(), abs=1e-4)


def test_scores_are_the_gain_of_the_question_by_length(ground):
    candidates = ("God created the heaven", "a stock exchange", "light")
    spec = Spec("choices", "likelihoods", "likelihood", "candidates")
    some = [choice("In the beginning", candidates, 0), choice("And there was", candidates[1:], 1)]
    reader = Reader.new(spec, resolve(spec), ground, {"train": some})
    ((items, batch),) = reader.scored(some)
    for row, example in enumerate(some):
        own = items[row]
        gain = (own.asked - own.alone) / own.length
        wanted = gain - np.logaddexp.reduce(gain)
        count = len(example.setting.candidates)
        assert batch["scores"][row, :count].numpy() == pytest.approx(wanted, abs=1e-3)
    answers = reader([some[1].setting])[0]
    assert [a.score for a in answers] == sorted([a.score for a in answers], reverse=True)
    train.fit(reader, reader.input.items(some, answered=True), ReaderConfig(epochs=2))
    assert set(reader.measure(some)) == {"accuracy", "log p"}
    with pytest.raises(UserError, match="1 candidates to choose from"):
        reader([QASetting("Who?", candidates=("a",))])


def pairs(count):
    """Whether a thing is named in a premise: said, said to be absent, or not said."""
    things = ["stone", "river", "horse", "table", "winter", "garden", "market", "letter"]
    found = []
    for i in range(count):
        thing, other = things[i % 8], things[(i + 1) % 8]
        label = LABELS[i % 3]
        premise = {
            "entailment": f"There was a {thing} and a {other}.",
            "neutral": f"There was a {other}.",
            "contradiction": f"There was no {thing} but a {other}.",
        }[label]
        setting = QASetting(f"There was a {thing}.", (premise,), str(i), LABELS)
        found.append(Example(setting, (Answer(label),)))
    return found


@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("options", [{"heads": "own"}, {"states": False, "words": 16}])
def test_inference_is_learnt(ground, options):
    spec = Spec("inference", "pairs", "entailment", "candidates", {"dropout": 0.0} | options)
    some = pairs(48)
    reader = Reader.new(spec, resolve(spec), ground, {"train": some}, seed=1)
    items = reader.input.items(some, answered=True)
    train.fit(reader, items, ReaderConfig(epochs=20, batch_size=16, lr=0.01))
    assert reader.measure(some)["accuracy"].mean() > 0.9
    with pytest.raises(UserError, match="no premise"):
        reader([QASetting("There was a stone.")])
    with pytest.raises(UserError, match="labels yes"):
        reader([QASetting("There was a stone.", ("A stone.",), candidates=("yes",))])


def test_inference_without_training_asks_for_a_word(ground):
    spec = Spec("inference", "verdicts", "likelihood", "candidates")
    reader = Reader.new(spec, resolve(spec), ground, {})
    assert reader.input.said("contradiction") == "False"
    assert "True, False, or Neither?" in reader.input.prompt(pairs(1)[0].setting)
    assert {a.text for a in reader([pairs(1)[0].setting])[0]} == set(LABELS)


def test_overlap_counts_words():
    setting = QASetting("A dog runs fast", ("The dog is not here, it runs",))
    found = overlap(setting, 8)
    assert found[0] == 0.5 and found[9] == 1 and found[8] == 0
    assert len(found) == 10 + 2 * 8 and found[10:18].sum() == pytest.approx(2)


class Constant(torch.nn.Module):
    """Log probabilities that are learnt and do not look at what is given."""

    def __init__(self):
        super().__init__()
        self.logp = torch.nn.Parameter(torch.randn(3).log_softmax(0))

    def forward(self, given):
        return self.logp.expand(len(given), 3)


def test_heads_are_mixed_by_the_posterior():
    torch.manual_seed(0)
    mixed = Mixed("own", 3, Constant)
    experts = torch.tensor([[2, 0], [1, 2]])
    weights = torch.tensor([[0.75, 0.25], [1.0, 0.0]])
    found = mixed(experts, weights, torch.zeros(2, 2, 4))
    p = [head.logp.exp() for head in mixed.heads]
    assert found[0].exp().tolist() == pytest.approx((0.75 * p[2] + 0.25 * p[0]).tolist(), abs=1e-5)
    assert found[1].exp().tolist() == pytest.approx(p[1].tolist(), abs=1e-5)
    found.sum().backward()
    assert mixed.heads[0].logp.grad is not None
    with pytest.raises(UserError, match=r"no reader\.options heads 'mine'"):
        Mixed("mine", 3, Constant)
