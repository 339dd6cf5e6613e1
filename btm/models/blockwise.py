"""Block-wise dynamic quantisation to 8 bits (arXiv 2110.02861, section 2), in numpy.

A block of B elements shares the scale N = max|T|; an element T becomes the index of the number of a
codebook Q that is nearest to T / N, and is read as Q[index] · N. Block sizes, codebooks and scales
are those of bitsandbytes. Rounding is to the nearest, at a tie to the smaller number.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)  # elements of a block
_EXPONENTS = 7
_PIECE = 1 << 18  # elements at a time; a multiple of every block

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


@cache
def codebook(*, signed: bool = True) -> Floats:
    """Return the 256 numbers of the dynamic data type, ascending, in [-1, 1], or [0, 1] unsigned.

    For each exponent i in 0…6 the midpoints of linspace(0.1, 1, n + 1) · 10^(i - 6), with n = 2^i
    and both signs, or n = 2^(i + 1); and 0, and 1.
    """
    numbers: list[float] = [0.0, 1.0]
    for i in range(_EXPONENTS):
        edges = _linspace(2**i if signed else 2 ** (i + 1))
        middle = (edges[:-1] + edges[1:]) / np.float32(2) * np.float32(10.0 ** (i - _EXPONENTS + 1))
        numbers += [*middle, *(-middle if signed else ())]
    made = np.sort(np.array(numbers, np.float32))
    made.flags.writeable = False
    return made


def quantise(
    values: NDArray[np.floating], block: int, *, signed: bool = True
) -> tuple[Codes, Floats]:
    """Quantise flat finite `values` (n,) to codes (n,) and scales (ceil(n / block),)."""
    codes = np.empty(len(values), np.uint8)
    absmax = np.zeros(blocks(len(values), block), np.float32)
    book = codebook(signed=signed)
    between = (book[:-1].astype(np.float64) + book[1:]) / 2
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE].astype(np.float32)
        first = start // block
        scales = np.maximum.reduceat(np.abs(piece), np.arange(0, len(piece), block))
        absmax[first : first + len(scales)] = scales
        divisors = np.where(scales > 0, scales, np.float32(1))
        scaled = piece / np.repeat(divisors, block)[: len(piece)]
        codes[start : start + len(piece)] = np.searchsorted(between, scaled)
    return codes, absmax


def dequantise(codes: Codes, absmax: Floats, block: int, *, signed: bool = True) -> Floats:
    """Restore the numbers (n,) of flat `codes` (n,) and the scales `absmax` of their blocks."""
    return codebook(signed=signed)[codes] * np.repeat(absmax, block)[: len(codes)]


def blocks(elements: int, block: int) -> int:
    """Count the blocks of `elements`; the last may be shorter."""
    return -(-elements // block)


def _linspace(n: int) -> Floats:
    """Compute n + 1 numbers from 0.1 to 1 as torch.linspace rounds them: from both ends, once."""
    low, high = np.float32(0.1), np.float32(1)
    step, k = float((high - low) / np.float32(n)), np.arange(n + 1, dtype=np.float64)
    return np.where(k < (n + 1) // 2, float(low) + step * k, float(high) - step * (n - k)).astype(
        np.float32
    )
