"""The quantiser against its definition and against bitsandbytes."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btm.models import blockwise

SIGNS = pytest.mark.parametrize("signed", [True, False])


def nearest(values, block, book):
    """The definition, element by element, in float64."""
    codes, scales = [], []
    for start in range(0, len(values), block):
        part = values[start : start + block].astype(np.float64)
        scale = np.abs(part).max()
        scales.append(scale)
        scaled = (part.astype(np.float32) / np.float32(scale or 1)).astype(np.float64)
        codes += [int(np.abs(book.astype(np.float64) - x).argmin()) for x in scaled]
    return np.array(codes, np.uint8), np.array(scales, np.float32)


@SIGNS
@pytest.mark.parametrize(("n", "block"), [(1, 256), (255, 256), (5000, 64), (300_001, 4096)])
def test_each_element_becomes_the_nearest_number_of_its_block(signed, n, block):
    chance = np.random.default_rng(n)
    values = (chance.standard_normal(n) * 10.0 ** chance.uniform(-6, 2, n)).astype(np.float32)
    values = values if signed else np.abs(values)
    values[: n // 7] = 0
    codes, absmax = blockwise.quantise(values, block, signed=signed)
    expected, scales = nearest(values, block, blockwise.codebook(signed=signed))
    assert np.array_equal(codes, expected)
    assert np.array_equal(absmax, scales)


@pytest.mark.slow
@SIGNS
def test_the_codebook_is_that_of_bitsandbytes(signed):
    functional = library()
    theirs = functional.create_dynamic_map(signed).numpy()
    ours = blockwise.codebook(signed=signed)
    assert np.all(
        np.abs(ours - theirs) <= 2 * np.spacing(np.abs(theirs))
    )  # ± 2 units: its rounding is the CPU's
    assert len(ours) == 256 and np.all(np.diff(ours) > 0)
    assert bool(ours[0] == 0) is not signed


@pytest.mark.parametrize("block", [256, 2048, 4096])
@pytest.mark.parametrize("scale", [1e-5, 1.0])
def test_codes_and_scales_are_those_of_bitsandbytes_but_at_ties(block, scale):
    functional = library()
    import torch

    values = (np.random.default_rng(block).standard_normal(400_003) * scale).astype(np.float32)
    theirs, state = functional.quantize_blockwise(torch.from_numpy(values), blocksize=block)
    codes, absmax = blockwise.quantise(values, block)
    assert np.array_equal(absmax, state.absmax.numpy())
    differ = codes != theirs.numpy()
    assert 0 < differ.mean() < 0.005
    # Its kernel for CPUs rounds T / N to a multiple of 2^-15 first: a tie is what lies that near to
    # two numbers.
    book, scaled = (
        blockwise.codebook().astype(np.float64),
        values / np.repeat(absmax, block)[: len(values)],
    )
    further = np.abs(book[theirs.numpy()] - scaled) - np.abs(book[codes] - scaled)
    assert np.all(further >= 0)
    assert further.max() <= 2**-15
    back = functional.dequantize_blockwise(torch.from_numpy(codes), state).numpy()
    assert np.array_equal(blockwise.dequantise(codes, absmax, block), back)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=0, max_size=300),
    st.sampled_from(blockwise.BLOCKS),
)
def test_what_comes_back_is_near(values, block):
    given = np.array(values, np.float32)
    codes, absmax = blockwise.quantise(given, block)
    back = blockwise.dequantise(codes, absmax, block)
    gap = np.diff(blockwise.codebook().astype(np.float64)).max() / 2 + 2**-20
    scale = np.repeat(absmax, block)[: len(given)].astype(np.float64)
    assert np.all(np.abs(back.astype(np.float64) - given) <= gap * scale + 1e-44)
    assert len(absmax) == blockwise.blocks(len(given), block)


def test_it_needs_no_torch():
    script = (
        "import sys; from btm.models import blockwise; blockwise.quantise(blockwise.codebook(), "
        "64);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def library():
    pytest.importorskip("bitsandbytes")
    from btm.train import optimizers

    return optimizers._bitsandbytes().functional
