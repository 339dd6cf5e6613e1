"""The outer step against torch's SGD, weights by tokens, and what error feedback carries over."""

import numpy as np
import pytest
import torch

from btm.models import blockwise, outer
from btm.models.outer import Outer


def test_contributions_weigh_by_their_tokens():
    assert outer.shares([300, 100]) == [0.75, 0.25]
    first, second = np.array([1.0, -2.0]), np.array([5.0, 2.0])
    found = outer.gradient(zip(outer.shares([300, 100]), [first, second], strict=True))
    assert found.tolist() == [-2.0, 1.0]


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.0), (0.3, 0.5)])
def test_the_step_is_that_of_sgd_with_nesterov_momentum(lr, momentum):
    chance = np.random.default_rng(0)
    point, buffer = chance.standard_normal(50), np.zeros(50)
    theirs = torch.tensor(point, requires_grad=True)
    sgd = torch.optim.SGD([theirs], lr=lr, momentum=momentum, nesterov=momentum > 0)
    for _ in range(6):
        found = chance.standard_normal(50)
        theirs.grad = torch.tensor(found)
        sgd.step()
        point, buffer = outer.step(point, buffer, found, Outer(lr, momentum))
    # The momentum is stored in float32 from round to round.
    np.testing.assert_allclose(point, theirs.detach().numpy(), rtol=0, atol=2e-6)


def test_one_machine_under_a_plain_step_ends_where_it_trained_to():
    point, trained = np.array([0.5, -1.0]), np.array([0.25, 3.0])
    found = outer.gradient([(1.0, trained - point)])
    ended, momentum = outer.step(point, np.zeros(2), found, Outer(1.0, 0.0))
    assert ended.tolist() == trained.tolist() and momentum.tolist() == (-(trained - point)).tolist()


def test_what_rounding_takes_from_one_difference_the_next_ones_bring():
    """Σ sent + residual = Σ moved, so the error of a sum does not grow with its terms."""
    chance = np.random.default_rng(1)
    residual, sent, moved = np.zeros(300), np.zeros(300), np.zeros(300)
    plain = np.zeros(300)
    for _ in range(40):
        each = chance.standard_normal(300) * 1e-3 + 1e-4
        codes, absmax, residual = outer.compensated(each, residual, 64)
        sent += blockwise.dequantise(codes, absmax, 64)
        plain += blockwise.dequantise(*blockwise.quantise(each, 64), 64)
        moved += each
    np.testing.assert_allclose(sent + residual, moved, rtol=0, atol=1e-12)
    assert np.abs(sent - moved).max() < np.abs(plain - moved).max() / 2
    assert np.abs(residual).max() <= absmax.max() / 10
