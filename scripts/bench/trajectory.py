"""What the average along a training gains: forests and dense LMs of `experiment=demo`, whose weights
are the end of their trainings or averages of these, under schedules that fall and that do not.

    python scripts/bench/trajectory.py --out FOLDER [--csv FILE] [--schedules cosine constant] [WORDS]

Every forest and its dense LM see the same tokens in the same order. A row for each schedule and way
of averaging: perplexity of the ensemble, the average of all experts, the seed and the dense LM, in
the domains trained on and in novel ones. Killed, it goes on where it was. WORDS are those of btm.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from btm.report.tables import table

WAYS = {
    "the end": [],
    "last 5": ["trainer.average_last=5"],
    "last 20": ["trainer.average_last=20"],
    "β = 0.99": ["trainer.average_decay=0.99"],
}
KINDS = {"ensemble": "ensemble", "average": "average", "seed": "seed", "dense": "dense LM"}


def main() -> None:
    """Grow what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--schedules", nargs="+", default=["cosine", "constant"])
    arguments, words = parser.parse_known_args()
    rows = []
    for schedule in arguments.schedules:
        for way, keys in WAYS.items():
            forest = arguments.out / f"{schedule}-{way.replace(' ', '-')}"
            every = ["experiment=demo", f"forest={forest}", f"trainer.decay={schedule}", *keys]
            rows += measured(schedule, way, [*every, *words])
    print(table(rows, "perplexity"))
    if arguments.csv:
        pd.DataFrame(rows).to_csv(arguments.csv, index=False)


def measured(schedule: str, way: str, words: list[str]) -> list[dict]:
    """Grow a forest and its dense LM, and make the rows of their perplexities."""
    btm("run", *words)
    btm("run", *words, "baseline=dense")
    found = json.loads(btm("compare", *words, "--json"))
    return [
        {"schedule": schedule, "weights": way, "model": KINDS[row["kind"]]}
        | {scope: row[scope.replace("-", "_")]["perplexity"] for scope in ("in-domain", "novel")}
        for row in found["rows"]
        if row["kind"] in KINDS
    ]


def btm(*words: str) -> str:
    """Run a command of btm and return what it printed; the bench ends where it fails."""
    print("btm", *words, file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "btm.cli", *words], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(f"btm {' '.join(words)}: exit code {done.returncode}")
    return done.stdout.decode()


if __name__ == "__main__":
    main()
