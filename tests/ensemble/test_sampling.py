"""Tokens are chosen by the cuts that were asked for, with the probabilities that are left."""

import numpy as np
import pytest

from btm.ensemble.sampling import Sampling, pick

P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


def shares(sampling, logp=None, draws=20_000):
    rng = np.random.default_rng(0)
    logp = np.log(P) if logp is None else logp
    found = np.bincount([pick(logp, sampling, rng) for _ in range(draws)], minlength=len(P))
    return found / draws


def left(kept):
    p = np.where(np.isin(range(len(P)), kept), P, 0)
    return p / p.sum()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), range(5)),
        (Sampling(top_k=2), (0, 1)),
        (Sampling(top_p=0.69), (0, 1)),
        (Sampling(top_p=0.71), (0, 1, 2)),
        (Sampling(top_p=1e-12), (0,)),
        (Sampling(min_p=0.3), (0, 1, 2)),
        (Sampling(min_p=1.0), (0,)),
        (Sampling(top_k=3, top_p=0.8), (0, 1)),  # top-p is of what top-k has left
        (Sampling(temperature=1.0, top_k=99), range(5)),
    ],
)
def test_cuts_leave_the_likeliest_with_their_shares(sampling, kept):
    assert shares(sampling) == pytest.approx(left(list(kept)), abs=0.015)


def test_temperature_flattens_and_sharpens():
    hot = P ** (1 / 2.0) / (P ** (1 / 2.0)).sum()
    assert shares(Sampling(temperature=2.0)) == pytest.approx(hot, abs=0.015)
    assert pick(np.log(P), Sampling(temperature=0), np.random.default_rng(0)) == 0
    assert shares(Sampling(temperature=1e-4))[0] == 1


def test_bias_comes_before_temperature_and_cuts():
    biased = Sampling(bias={4: np.log(10.0)}, top_k=2)
    p = np.array([0.4, 0, 0, 0, 0.5])
    assert shares(biased) == pytest.approx(p / p.sum(), abs=0.015)
    logp = np.log(P)
    assert pick(logp, Sampling(temperature=0, bias={4: 100.0}), np.random.default_rng(0)) == 4
    assert logp == pytest.approx(np.log(P))  # what was given is left alone


def test_of_equals_the_first():
    equal = np.zeros(5)
    assert pick(equal, Sampling(temperature=0), np.random.default_rng(0)) == 0
    assert set(np.flatnonzero(shares(Sampling(top_k=2), equal, 500))) == {0, 1}
