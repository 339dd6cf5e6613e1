"""Supports in windows, and the span head on a real forest."""

import itertools

import numpy as np
import pytest
import torch

from btm.config.reader import ReaderConfig
from btm.errors import UserError
from btm.forest import find_model
from btm.readers import apart, train
from btm.readers.ground import Ground
from btm.readers.reader import Reader
from btm.readers.registry import Spec, resolve
from btm.readers.setting import Answer, Example, QASetting
from btm.readers.spans.windows import Windows, overlap_features

NAMES = ["otter", "hawk", "trout", "viper", "robin", "badger", "heron", "moth"]
PLACES = ["river", "cliff", "brook", "desert", "garden", "meadow", "marsh", "lamp"]


def examples(count):
    """Which animal lives at a place? Or none, where the support does not name the place."""
    found = []
    for i in range(count):
        animal, place = NAMES[i % 8], PLACES[(i * 3) % 8]
        support = f"It was late. A {animal} lives by the {place}."
        begin = support.index(animal)
        right = Answer(animal, (begin, begin + len(animal)))
        for asked, answers in ((place, (right,)), ("moon", ())):
            setting = QASetting(f"Who lives by the {asked}?", (support,), id=f"{i} {asked}")
            found.append(Example(setting, answers))
    return found


@pytest.fixture
def ground(forest):
    return Ground(forest, "forest", [find_model(forest, elm.name) for elm in forest.experts()])


def test_windows_overlap_and_hold_the_answer_where_it_is(ground):
    text = "No words of interest stand here at all. " * 20 + "The otter swims."
    at = text.index("otter")
    example = Example(QASetting("Who swims?", (text,)), (Answer("otter", (at, at + 5)),))
    given = Windows(ground, window=64, overlap=16)
    items = given.items([example], answered=True)
    assert len(items) > 3
    for one, other in itertools.pairwise(items):
        assert other.spans[0, 0] == one.spans[-16, 0]
    assert items[0].spans[0, 0] == 0 and items[-1].spans[-1, 1] == len(text)
    places = [item.answer for item in items]
    assert places[0] == (0, 0) and places[-1] != (0, 0)
    first, last = (place - 1 for place in places[-1])
    assert text[items[-1].spans[first, 0] : items[-1].spans[last, 1]].strip() == "otter"
    unanswered = given.items([Example(example.setting)], answered=False)
    assert all(item.answer == (0, 0) for item in unanswered)


def test_the_posterior_is_of_the_support(ground):
    ids = ground.tokens("In the beginning God created the heaven and the earth.").ids
    asked = ground.tokens("Who?\n").ids
    (read,) = apart.read(ground, [np.concatenate([asked, ids])], [len(asked)], 2)
    logp = []
    for model in ground.loaded:
        whole = torch.tensor([[ground.start, *asked, *ids]])
        with torch.inference_mode():
            every = model(whole).logits.log_softmax(-1)[0, :-1]
        own = every.gather(1, whole[0, 1:, None])[:, 0]
        logp.append(float(own[len(asked) :].sum()))
    wanted = np.exp(logp - np.logaddexp.reduce(logp))
    assert read.experts.tolist() == np.argsort(-wanted)[:2].tolist()
    assert read.weights == pytest.approx(
        np.sort(wanted)[::-1][:2] / np.sort(wanted)[-2:].sum(), abs=1e-4
    )
    assert read.states.shape == (2, len(asked) + len(ids), ground.width)


def test_overlap_marks_the_words_of_the_question(ground):
    support = "A hawk flies. The otter swims; otters swim."
    tokens = ground.tokens(support)
    features = overlap_features("Which otter swims?", support, tokens)
    marked = {
        support[a:b].strip() for (a, b), row in zip(tokens.spans, features, strict=True) if row[0]
    }
    assert "".join(marked) and all(part in "otter swims" for part in marked)
    assert features[0].tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("options", [{"heads": "own"}, {"heads": "shared", "experts": 1}])
def test_answers_are_found_and_missed_where_there_is_none(ground, options):
    spec = Spec("squad", "windows", "span", "spans", {"dim": 16, "dropout": 0.0} | options)
    some = examples(24)
    reader = Reader.new(spec, resolve(spec), ground, {"train": some}, seed=1)
    items = reader.input.items(some, answered=True)
    how = ReaderConfig(epochs=60, batch_size=16, lr=0.003)
    train.fit(reader, items, how)
    assert reader.measure(some)["exact"].mean() > 0.7
    best, *rest = reader([some[0].setting])[0]
    begin, end = best.span or (0, 0)
    assert some[0].setting.support[0][begin:end] == best.text
    assert best.score >= rest[0].score
    with pytest.raises(UserError, match="no support"):
        reader([QASetting("Who lives by the river?")])


def test_a_span_is_scored_against_no_answer(ground):
    spec = Spec("squad", "windows", "span", "spans", {"dim": 8, "threshold": 1e6})
    some = examples(2)
    reader = Reader.new(spec, resolve(spec), ground, {"train": some}, seed=1)
    assert reader([some[0].setting])[0][0].text == ""
    ((_, batch),) = reader.scored(some[:1])
    for name in ("begin", "end"):
        assert float(batch[name].exp().sum(-1)[0]) == pytest.approx(1, abs=1e-4)
