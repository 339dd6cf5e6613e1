"""What an ensemble loses that commits early: perplexity and cost for each N and k, beside the whole
ensemble, its top-1 by prior and the dense LM where one stands.

    python scripts/bench/commit.py experiment=demo [--tokens 4 8 16 32 64] [--experts 1 2 4] [--csv=FILE]

The words are those of `btm eval`. Every row is mixed from the same cached scores (which are computed
where they are missing), under the rule, prior and fits of the words; experts run counts the reading.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.report.comparison import Row
from btm.report.tables import table


def main() -> None:
    """Print a row for each number of tokens that all read and of experts that go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    config = compose(words, "compare")
    rows = [as_dict(row, None, None) for row in steps.compare(config).rows if beside(row)]
    for tokens in arguments.tokens:
        for experts in arguments.experts:
            row = committed(config, tokens, experts)
            rows.append(as_dict(row, tokens, experts))
    whole = next(row for row in rows if row["kind"] == "ensemble")
    for row in rows:
        for scope in ("in-domain", "novel"):
            if row[scope] is not None:
                row[f"{scope} / ensemble"] = row[scope] / whole[scope]
    print(
        table(rows, f"{config.forest_root}: perplexity, each window of {config.window} begun anew")
    )
    if arguments.csv:
        pd.DataFrame(rows).to_csv(arguments.csv, index=False)


def committed(config: Config, tokens: int, experts: int) -> Row:
    """Measure the ensemble that commits to `experts` after `tokens` of a window."""
    chosen = replace(config.ensemble, commit=tokens, top_k=experts)
    found = steps.compare(replace(config, ensemble=chosen))
    return next(row for row in found.rows if row.kind == "commit")


def beside(row: Row) -> bool:
    """Tell whether a row of the comparison is printed beside the committed ones."""
    return row.kind in ("ensemble", "top-1", "dense")


def as_dict(row: Row, tokens: int | None, experts: int | None) -> dict:
    """Make the line of a row."""
    return {
        "model": row.model,
        "kind": row.kind,
        "N": tokens,
        "k": experts,
        "experts run": row.experts_run,
        "FLOPs/token": row.inference_flops_per_token,
        "in-domain": row.in_domain and row.in_domain.perplexity,
        "novel": row.novel and row.novel.perplexity,
    }


if __name__ == "__main__":
    main()
