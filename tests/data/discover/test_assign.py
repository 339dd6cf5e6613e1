"""Balanced assignment against scipy's exact optimum."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from btm.data.discover.assign import balanced_assignment


def exact(scores):
    D, K = scores.shape
    columns = np.repeat(np.arange(K), np.full(K, D // K) + (np.arange(K) < D % K))
    rows, seats = linear_sum_assignment(scores[:, columns], maximize=True)
    return scores[rows, columns[seats]].sum()


@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_reached(seed):
    rng = np.random.default_rng(seed)
    D, K = int(rng.integers(20, 400)), int(rng.integers(2, 17))
    low_rank = rng.normal(size=(D, 4)) @ rng.normal(size=(4, K)) + rng.normal(size=K) * 3
    for scores in (rng.normal(size=(D, K)), low_rank):
        chosen = balanced_assignment(scores)
        sizes = np.bincount(chosen, minlength=K)
        assert sizes.max() - sizes.min() <= 1
        best = exact(scores)
        assert scores[np.arange(D), chosen].sum() >= best - 1e-6 * max(1.0, abs(best))


def test_many_clusters_of_unlike_size_are_settled_too():
    """Close clusters with a few far ones: what coordinate descent alone does not settle in many
    rounds.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(32, 6))
    centres[1:20] = centres[0] + 0.3 * rng.normal(size=(19, 6))
    documents = centres[rng.choice(32, 1000, p=rng.dirichlet(np.full(32, 0.3)))] + rng.normal(
        size=(1000, 6)
    )
    scores = -((documents[:, None] - centres) ** 2).sum(axis=2)
    chosen = balanced_assignment(scores)
    assert np.ptp(np.bincount(chosen, minlength=32)) == 1
    best = exact(scores)
    assert scores[np.arange(1000), chosen].sum() >= best - 1e-6 * abs(best)


@pytest.mark.parametrize(
    "scores", [np.zeros((10, 3)), np.ones((7, 1)), np.eye(5), np.zeros((2, 4))]
)
def test_ties_and_corners(scores):
    sizes = np.bincount(balanced_assignment(scores), minlength=scores.shape[1])
    assert sizes.sum() == len(scores)
    assert sizes.max() - sizes.min() <= 1


def test_what_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        balanced_assignment([[0.0, np.nan]])
