"""What sums in float64 cost an average: `average.accumulate=float32` and `float64`, by turns.

    python scripts/bench/accumulate.py --models 4 --elements 32000000

Both averages are held against the closed form in float64, rounded once: the table counts the
elements that differ. Times are process CPU seconds and wall seconds from the page cache.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from btm.models import average

KINDS = ("float32", "float64")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--elements", type=int, default=32_000_000, help="of each model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: as btm chooses")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="btm-accumulate-") as place:
        compare(Path(place), options)


def compare(place: Path, options: argparse.Namespace) -> None:
    """Time both kinds by turns, after one turn that is not counted, and print the table."""
    rng = np.random.default_rng(0)
    folders = [place / f"elm{j}" for j in range(options.models)]
    for folder in folders:
        folder.mkdir()
        values = rng.normal(size=options.elements).astype(np.float32)
        save_file({"w": values}, folder / "model.safetensors")
    weights = {folder: 1.0 + j for j, folder in enumerate(folders)}
    spent: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for turn in range(options.rounds + 1):
        for kind in KINDS if turn % 2 else KINDS[::-1]:
            found = once(place / kind, weights, kind, options.threads)
            if turn:
                spent[kind].append(found)
    exact = closed_form(weights)
    for kind in KINDS:
        wall, cpu = (statistics.median(column) for column in zip(*spent[kind], strict=True))
        wrong = int((load_file(place / kind / "model.safetensors")["w"] != exact).sum())
        print(
            f"{kind}: wall {wall:.3f} s, CPU {cpu:.3f} s; {wrong:,} of {exact.size:,} elements "
            "differ from the closed form"
        )
    pairs = [b[0] / a[0] for a, b in zip(*(spent[kind] for kind in KINDS), strict=True)]
    print(
        f"float64 / float32, wall: median {statistics.median(pairs):.3f}, {min(pairs):.3f} to "
        f"{max(pairs):.3f}"
    )


def once(
    target: Path, weights: dict[Path, float], accumulate: str, threads: int
) -> tuple[float, float]:
    """Make one average; return its wall and CPU seconds."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    settings = average.Settings(accumulate=accumulate, threads=threads)
    wall, cpu = time.perf_counter(), time.process_time()
    average.average(weights, target, settings=settings)
    return time.perf_counter() - wall, time.process_time() - cpu


def closed_form(weights: dict[Path, float]) -> np.ndarray:
    """Compute Σ_j w̃_j θ_j in float64, rounded once to float32."""
    total = sum(weights.values())
    mean = 0.0
    for folder, weight in weights.items():
        mean = mean + weight / total * load_file(folder / "model.safetensors")["w"].astype(float)
    return np.asarray(mean).astype(np.float32)


if __name__ == "__main__":
    main()
