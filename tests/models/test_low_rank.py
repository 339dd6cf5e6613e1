"""Changes of low rank: products that are exact, and averages of them."""

from dataclasses import replace

import numpy as np
import pytest

from btm.models import weights
from btm.models.low_rank import LowRank, added, average


def drawn(seed, rank=3, out=5, into=7, **more):
    numbers = np.random.default_rng(seed)
    a, b = numbers.normal(size=(rank, into)), numbers.normal(size=(out, rank))
    return LowRank("layer", a.astype(np.float32), b.astype(np.float32), 0.7, **more)


def test_a_product_is_the_matrix_product_in_either_orientation():
    change = drawn(0)
    exact = 0.7 * change.b.astype(np.float64) @ change.a.astype(np.float64)
    np.testing.assert_allclose(change.product(), exact, rtol=1e-13, atol=1e-15)
    turned = replace(change, transposed=True)
    assert (change.shape, turned.shape) == ((5, 7), (7, 5))
    assert np.array_equal(turned.product(), change.product().T)
    assert change.parameters == 3 * 12


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_a_sum_is_rounded_once(dtype):
    change = drawn(1)
    raw = weights.narrow(np.random.default_rng(2).normal(size=35), dtype)
    exact = weights.to_float64(raw, dtype) + change.product().ravel()
    assert np.array_equal(added(raw, dtype, change), exact)


def test_an_average_has_the_sum_of_the_products_and_of_the_ranks():
    one, other = {"x": drawn(3), "y": drawn(4)}, {"x": drawn(5, rank=2)}
    found = average([(0.25, one), (-0.5, other)])
    assert {name: change.rank for name, change in found.items()} == {"x": 5, "y": 3}
    exact = 0.25 * one["x"].product() - 0.5 * other["x"].product()
    np.testing.assert_allclose(found["x"].product(), exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found["y"].product(), 0.25 * one["y"].product(), rtol=1e-5, atol=1e-6
    )
