"""What is sent of distributions arrives as it was, to the digits of its number type."""

import numpy as np
import pytest
import torch

from btm.serve.members.cluster import wire
from btm.serve.members.member import Found


@pytest.fixture(scope="module")
def logp():
    torch.manual_seed(0)
    return torch.log_softmax(3 * torch.randn(5, 1000), -1)


# Distances of a token that is not far from the likeliest: float16 has 11 bits, a decade of the
# codebook of 8 bits 64 or 128 numbers.
@pytest.mark.parametrize(
    ("kind", "relative", "bytes_each"), [("fp32", 1e-6, 4), ("fp16", 2**-11, 2), ("int8", 0.08, 1)]
)
def test_an_error_is_a_share_of_the_distance_from_the_likeliest(logp, kind, relative, bytes_each):
    packed = wire.pack(logp, kind)
    read = wire.unpack(packed)
    best = logp.max(1, keepdim=True).values
    near = best - logp < 8
    assert torch.equal(read.max(1, keepdim=True).values, best)
    assert ((read - logp).abs() <= relative * (best - logp) + 2e-6)[near].all()
    assert torch.equal(read.argmax(1), logp.argmax(1))
    assert packed.bytes == pytest.approx(logp.numel() * bytes_each, rel=0.03)
    kl = (logp.exp() * (logp - torch.log_softmax(read, -1))).sum(1)
    assert kl.max() < {"fp32": 1e-6, "fp16": 1e-5, "int8": 2e-3}[kind]


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_token_without_a_chance_keeps_none(logp, kind):
    logp = logp.clone()
    logp[:, 7] = -torch.inf
    read = wire.unpack(wire.pack(logp, kind))
    assert (read[:, 7] < -60).all()
    assert (read.exp()[:, 7] == 0).all() or kind == "int8"
    assert not read.isnan().any()


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_reply_has_all_that_was_found(logp, kind):
    found = Found({3: logp[0], 1: logp[1]}, {3: np.array([-1.0, -2.5])}, {1: logp[2:4]})
    read = wire.found(wire.reply(found, kind, 0.0))
    assert list(read.next) == [3, 1]
    assert torch.equal(read.next[1].argmax(), logp[1].argmax())
    assert read.scores[3].tolist() == [-1.0, -2.5]
    assert read.whole[1].shape == (2, 1000)
    assert wire.found(wire.reply(Found(), kind, 0.0)) == Found()
