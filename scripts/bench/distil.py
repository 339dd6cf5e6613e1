"""What a student keeps of the ensemble's gain over the token average, and what else the same tokens
buy: the average trained on the text alone, and the dense LM trained on.

    python scripts/bench/distil.py experiment=demo distil.steps=480 [--csv=FILE]

The words are those of `btm distil`, without a name. Four students are made where they are missing,
all from the same text and steps: of the posterior ensemble, of `gated`, of no teacher at all
(distil.weight=0), and in the forest <forest>-dense, where it stands, the dense LM trained on. The
gain kept is (average - student) / (average - ensemble) in nats/token, the mean over domains, each
student beside its own ensemble. One seed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from btm import steps
from btm.cli.compose import compose
from btm.config.distil import TEACHERS
from btm.config.schema import Config
from btm.forest import Forest
from btm.report import ConsoleReporter
from btm.report.comparison import Comparison, Row
from btm.report.tables import table

DENSE, MORE = "dense", "dense-more"


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    config = compose(words, "distil")
    make(config)
    rows = measured(config)
    n = config.distil.steps or config.trainer.steps
    print(table(rows, f"{config.forest_root}: nats/token on test, students of {n} steps"))
    if arguments.csv:
        pd.DataFrame(rows).to_csv(arguments.csv, index=False)


def make(config: Config) -> None:
    """Make the token average and the students that are missing."""
    import sys

    reporter = ConsoleReporter(sys.stderr)
    average = replace(config.average, name="token", method="linear")
    steps.average(replace(config, weights="token", average=average), reporter)
    for teacher in TEACHERS:
        chosen = replace(config.distil, name=teacher, teacher=teacher)
        steps.distil(replace(config, distil=chosen), reporter)
    alone = replace(config.distil, name="text-alone", weight=0.0)
    steps.distil(replace(config, distil=alone), reporter)
    if dense := dense_of(config):
        domains = sorted({d for e in Forest(config.forest_root).experts() for d in e.card.domains})
        more = replace(alone, name=MORE, init=DENSE, experts=[DENSE], domains=domains)
        steps.distil(replace(config, forest=dense, distil=more), reporter)


def dense_of(config: Config) -> str | None:
    """Name the forest of the dense LM, if it stands."""
    root = f"{config.base_root}-dense"
    return root if Forest.stands(root) else None


def measured(config: Config) -> list[dict]:
    """Compare all of them on test, the ensemble under the rule of each teacher."""
    models = [f"{dense}:{MORE}"] if (dense := dense_of(config)) else []
    found: dict[str, Comparison] = {}
    for teacher, rule in TEACHERS.items():
        chosen = replace(config.ensemble, rule=rule, prior="cached")
        found[teacher] = steps.compare(replace(config, models=models, ensemble=chosen))
    ensembles = {teacher: each.rows[0] for teacher, each in found.items()}
    plain = found["posterior"]
    average = next(row for row in plain.rows if row.model == "token")
    rows = []
    for row in [ensembles["gated"], *plain.rows]:
        teacher = "gated" if row is ensembles["gated"] or row.model == "gated" else "posterior"
        rows.append(as_dict(plain, row, average, ensembles[teacher]))
        if row is ensembles["gated"]:
            rows[0]["model"] += " (gated)"
    return rows


def as_dict(of: Comparison, row: Row, average: Row, ensemble: Row) -> dict:
    """Make the line of a row."""
    line = {
        "model": row.model,
        "kind": row.kind,
        "models run": row.experts_run,
        "training FLOPs": row.training_flops,
    }
    for scope, novel in (("in-domain", False), ("novel", True)):
        domains = of.domains(novel=novel)
        own, low, high = (mean(r, domains) for r in (row, ensemble, average))
        line[scope] = own
        line[f"{scope}: gain kept"] = (high - own) / (high - low)
    return line


def mean(row: Row, domains: list[str]) -> float:
    """Compute the mean nats/token over domains."""
    return sum(row.nats_per_token[domain] for domain in domains) / len(domains)


if __name__ == "__main__":
    main()
