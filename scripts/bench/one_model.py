"""Which way to one model, or to few: every way side by side on one forest, by what a token costs.

    python scripts/bench/one_model.py experiment=demo [--steps 480] [--csv=FILE]

The words are those of `btm compare`. What is missing is made: averages (fitted, by tokens, found by
search), students of both teachers, mixtures of experts with a ridge router and finetuned, and the
token average trained on; then the forest is compared with all of it, with its dense LM, where one
stands in <forest>-dense, with that trained on, and with a dense LM of as many tokens under one
schedule, grown in <forest>-longer-dense. What is trained gets as many steps everywhere. Of a killed
bench what was made stands. Training FLOPs count all ancestors and what the making took.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.forest import Forest
from btm.report import ConsoleReporter
from btm.report.comparison import Row
from btm.report.tables import table
from btm.steps import baselines

AVERAGES = {
    "token": ["weights=token", "average.method=linear", "average.name=token"],
    "searched": ["average.search=valid", "average.name=searched"],
}
STUDENTS = {
    "student-gated": ["distil.teacher=gated"],
    "student-posterior": ["distil.teacher=posterior"],
    "token-trained-on": ["distil.weight=0"],
}
MOES = {
    "moe-ridge": ["moe.router=ridge"],
    "moe-finetuned": ["moe.router=btx", "moe.train=all"],
}
COMMITS = ((16, 2), (16, 1))  # tokens that all read, experts that go on
MORE, LONGER = "dense-trained-on", "dense-longer"


def main() -> None:
    """Make what is missing, and print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    config = compose(words, "compare")
    make(words, arguments.steps)
    models = []
    if dense := dense_of(config):
        models = [f"{dense}:{MORE}", f"{longer(words, arguments.steps)}:dense"]
    rows = compared(replace(config, models=models))
    print(table(rows, f"{config.forest_root}: perplexity; {arguments.steps} steps where trained"))
    if arguments.csv:
        pd.DataFrame(rows).to_csv(arguments.csv, index=False, float_format="%.6g")


def make(words: list[str], n_steps: int) -> None:
    """Make every model that does not stand."""
    reporter = ConsoleReporter(sys.stderr)
    steps.average(compose(words, "average"), reporter)  # fitted: the default
    for own in AVERAGES.values():
        steps.average(compose([*words, *own], "average"), reporter)
    for name, own in STUDENTS.items():
        named = [f"student={name}", f"distil.steps={n_steps}"]
        steps.distil(compose([*words, *named, *own], "distil"), reporter)
    for name, own in MOES.items():
        trained = [f"moe.steps={n_steps}"] if "moe.router=btx" in own else []
        steps.moe(compose([*words, f"moe={name}", *own, *trained], "moe"), reporter)
    if dense := dense_of(compose(words, "compare")):
        experts = Forest(compose(words, "compare").forest_root).experts()
        domains = sorted({domain for elm in experts for domain in elm.card.domains})
        more = [f"student={MORE}", "distil.weight=0", "distil.init=dense", "distil.experts=[dense]"]
        more += [f"distil.domains=[{','.join(domains)}]", f"distil.steps={n_steps}"]
        steps.distil(compose([*words, f"forest={dense}", *more], "distil"), reporter)


def longer(words: list[str], n_steps: int) -> str:
    """Grow the dense LM whose one schedule has `n_steps` more, unless it stands; name its forest."""
    config = compose(words, "compare")
    forest = f"{config.base_root}-longer"
    experts = len(Forest(config.forest_root).experts())
    begun = config.seed.steps or experts * int(
        config.trainer.steps or 0
    )  # the default: half of all
    own = [f"forest={forest}", f"seed.steps={begun + n_steps}", "baseline=dense"]
    asked = compose([*words, *own], "run")
    reporter = ConsoleReporter(sys.stderr)
    baselines.run(baselines.ready(asked, reporter), reporter)
    return f"{forest}-dense"


def dense_of(config: Config) -> str | None:
    """Name the forest of the dense LM, if it stands."""
    root = f"{config.base_root}-dense"
    return root if Forest.stands(root) else None


def compared(config: Config) -> list[dict]:
    """Compare all of them on test, cheapest first, and of equal cost the worst first."""
    rows = list(steps.compare(config).rows)
    for tokens, experts in COMMITS:
        chosen = replace(config.ensemble, commit=tokens, top_k=experts)
        found = steps.compare(replace(config, ensemble=chosen)).rows
        rows.append(next(row for row in found if row.kind == "commit"))
    one = next(row.inference_flops_per_token for row in rows if row.kind == "top-1")
    lines = [as_dict(row, one) for row in rows]
    return sorted(lines, key=lambda line: (round(line["models run"], 1), -line["in-domain"]))


def as_dict(row: Row, one: float) -> dict:
    """Make the line of a row; `one` are the FLOPs per token of one ELM."""
    return {
        "model": LONGER if "-longer-" in row.model else row.model.rpartition(":")[2],
        "kind": row.kind,
        "models run": row.inference_flops_per_token / one,
        "training FLOPs": row.training_flops,
        "in-domain": row.in_domain and row.in_domain.perplexity,
        "novel": row.novel and row.novel.perplexity,
    }


if __name__ == "__main__":
    main()
