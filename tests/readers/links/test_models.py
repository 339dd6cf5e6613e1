"""Scores of links against the formulas of the papers, written plainly, and their gradients."""

import numpy as np
import pytest
import torch
from readers_graphs import splits, untrained

from btm.readers.links.inputs import Link


def arrays(reader, *names):
    """Parameters of a reader's model, in float64."""
    state = reader.model.state_dict()
    return [state[name].double().numpy() for name in names]


def distmult(reader, s, r, o):
    e, w, b = arrays(reader, "entities", "relations", "bias")
    return sum(e[s] * w[r] * e[o]) + b[o]


def complex_(reader, s, r, o):
    e, w, b = arrays(reader, "entities", "relations", "bias")
    half = e.shape[1] // 2
    as_complex = [x[:half] + 1j * x[half:] for x in (e[s], w[r], e[o])]
    return (as_complex[0] * as_complex[1] * as_complex[2].conj()).real.sum() + b[o]


def conve(reader, s, r, o):
    """Equation 1: f(vec(f([s̄; r̄] ∗ ω)) W) · o; norms are as at first, in evaluation mode x/√(1+ε)."""
    e, w, b, filters, at, weight, bias = arrays(
        reader,
        *("entities", "relations", "bias", "filters.weight", "filters.bias"),
        *("hidden.weight", "hidden.bias"),
    )
    shrink = 1 / np.sqrt(1 + 1e-5)
    image = np.concatenate([e[s], w[r]]).reshape(8, 6) * shrink
    features = [
        [[(image[y : y + 3, x : x + 3] * kernel).sum() + more for x in range(4)] for y in range(6)]
        for kernel, more in zip(filters[:, 0], at, strict=True)
    ]
    features = np.maximum(np.array(features) * shrink, 0).ravel()
    return np.maximum((weight @ features + bias) * shrink, 0) @ e[o] + b[o]


@pytest.mark.parametrize(
    ("model", "formula"), [("distmult", distmult), ("complex", complex_), ("conve", conve)]
)
def test_scores_are_those_of_the_paper(model, formula):
    reader = untrained(model)
    with torch.no_grad():
        reader.model.bias.normal_(generator=torch.Generator().manual_seed(0))
    relations, entities = len(reader.input.relations), len(reader.input.entities)
    links = [Link(3, 1), Link(0, relations + 2), Link(13, 0)]
    scores = reader.score(links)["scores"]
    assert scores.shape == (3, entities)
    for link, row in zip(links, scores, strict=True):
        for o in (0, 5, 13):
            wanted = formula(reader, link.subject, link.relation, o)
            assert float(row[o]) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
            alone = reader.model.triple(link.subject, link.relation, o)
            assert alone == pytest.approx(float(row[o]), rel=1e-4, abs=1e-6)


def test_the_loss_is_that_of_the_official_code():
    """Targets are (1 − ε) y + 1/N; its gradient in the biases is (σ(score) − target) / (B N)."""
    reader = untrained("distmult", input_dropout=0.0)
    items = reader.input.items(splits()["train"], answered=True)[:5]
    batch = reader.input.batch(items)
    scores = reader.model(batch)["scores"].detach().double()
    count = scores.shape[1]
    wanted = 0.9 * batch["right"].double() + 1 / count
    p = scores.sigmoid()
    loss = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    found = reader.model.loss(batch)
    assert float(found.detach()) == pytest.approx(float(loss), rel=1e-5)
    found.backward()
    gradient = ((p - wanted) / scores.numel()).sum(0)
    assert torch.allclose(reader.model.bias.grad.double(), gradient, atol=1e-7)


def test_equal_questions_are_one_item_with_all_their_answers():
    reader = untrained("distmult")
    items = reader.input.items(splits()["train"], answered=True)
    assert len({link[:2] for link in items}) == len(items) < 520
    assert sum(len(link.right) for link in items) == 520  # 260 triples, asked both ways
    some = next(link for link in items if len(link.right) > 2)
    right = reader.input.batch([some])["right"][0]
    assert right.nonzero()[:, 0].tolist() == list(some.right)
