"""The balanced assignment of BASE layers beside fairseq's own (libbase), on the same scores.

    git clone https://github.com/facebookresearch/fairseq
    pip install ninja
    python scripts/bench/balanced.py fairseq/fairseq/clib/libbase/balanced_assignment.cpp

Compiles that file against the torch that is here (g++ is needed): the libbase of fairseq's wheels
fits no torch of today. Each assigns T tokens to E experts, as many to each; printed are the share of
tokens that both give to the same expert, each one's sum of scores over the optimum's (scipy's), the
loads, and the seconds of each, in turns. libbase is an auction whose bids rise by a fiftieth of the
range of scores at least, so its sum may fall short; btm's is exact.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.utils import cpp_extension

from btm.data.discover.assign import balanced_assignment
from btm.report.tables import table

SIZES = ((4, 64), (8, 512), (8, 2048), (64, 2048))  # experts, tokens


def main() -> None:
    """Print a row for each size and kind of scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    libbase = cpp_extension.load("libbase", [str(args.source)])
    rows = [
        compared(libbase, kind, experts, tokens, args.rounds)
        for experts, tokens in SIZES
        for kind in ("even", "skewed")
    ]
    print(table(rows, "balanced assignment: btm beside libbase"))


def scores_of(kind: str, experts: int, tokens: int) -> torch.Tensor:
    """Draw scores, (T, E): alike for all experts, or with experts that most tokens prefer."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(tokens, experts))
    if kind == "skewed":
        scores += np.linspace(0, 3, experts)
    return torch.tensor(scores, dtype=torch.float32)


def compared(libbase: object, kind: str, experts: int, tokens: int, rounds: int) -> dict:
    """Assign by both, in turns."""
    scores = scores_of(kind, experts, tokens)
    each = tokens // experts
    seconds: dict[str, list[float]] = {"btm": [], "libbase": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        ours = balanced_assignment(scores.double().numpy())
        seconds["btm"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        order = libbase.balanced_assignment(scores.clone()).numpy()  # type: ignore[attr-defined]
        seconds["libbase"].append(time.perf_counter() - begun)
    theirs = np.empty(tokens, dtype=np.int64)
    theirs[order] = np.repeat(np.arange(experts), each)
    exact = scores.double().numpy()
    rows, columns = linear_sum_assignment(np.repeat(exact, each, axis=1), maximize=True)
    best = exact[rows, columns // each].sum()

    def short(chosen: np.ndarray) -> float:
        return float((best - exact[np.arange(tokens), chosen].sum()) / tokens)

    return {
        "experts": experts,
        "tokens": tokens,
        "scores": kind,
        "same expert": float((ours == theirs).mean()),
        "btm short of the best, a token": short(ours),
        "libbase short, a token": short(theirs),
        "loads": f"{np.bincount(ours).min()}-{np.bincount(ours).max()}",
        "btm ms": 1000 * statistics.median(seconds["btm"]),
        "libbase ms": 1000 * statistics.median(seconds["libbase"]),
    }


if __name__ == "__main__":
    main()
