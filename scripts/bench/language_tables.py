"""Rows of scripts/bench/languages.py as CSV, and as the tables of docs/languages.md."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from btm.report.tables import table
from btm.system import durable

METHODS = ("scratch", "copy", "argmax", "posterior", "uniform")
Row = dict[str, Any]


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Publish rows as CSV, numbers with five digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()})
    with durable.publish_file(file) as handle:
        handle.write(text.getvalue().encode())


def mean(rows: Sequence[Row], key: str = "bits_per_byte") -> str:
    """Write the mean bits per byte, and of several random seeds the least and the most."""
    found = [float(row[key]) for row in rows]
    if not found:
        return ""
    said = f"{np.mean(found):.3f}"
    return said if len(found) == 1 else f"{said} ({min(found):.3f}–{max(found):.3f})"


def show_branches(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: languages and sizes by methods."""
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    yield f"| language | train KB | epochs | {' | '.join(methods)} | posterior's parents |"
    yield "|---" * (len(methods) + 4) + "|"
    keys = sorted({(row["language"], row["train_bytes"]) for row in rows})
    for language, size in keys:
        own = [row for row in rows if (row["language"], row["train_bytes"]) == (language, size)]
        cells = [mean([row for row in own if row["method"] == method]) for method in methods]
        parents = [row["parents"] for row in own if row["method"] == "posterior"][:1]
        about = f"| {language} | {size / 1000:.0f} | {own[0]['epochs']:.1f} "
        yield f"{about}| {' | '.join([*cells, *parents])} |"


def show_forest(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: languages by models, and means over languages."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    yield f"| language | {' | '.join(models)} |"
    yield "|---" * (len(models) + 1) + "|"
    for language in dict.fromkeys(row["language"] for row in rows):
        own = [row for row in rows if row["language"] == language]
        cells = [mean([row for row in own if row["model"] == model]) for model in models]
        yield f"| {language} | {' | '.join(cells)} |"
    means = [np.mean([r["bits_per_byte"] for r in rows if r["model"] == m]) for m in models]
    yield f"| mean | {' | '.join(f'{value:.3f}' for value in means)} |"


def show_trees(rows: Sequence[Row], late: Sequence[str]) -> Iterator[str]:
    """Yield a table of Markdown: languages by trees, own expert and forest; means over each round."""
    trees = list(dict.fromkeys(row["tree"] for row in rows))
    columns = [(key, tree) for key in ("own", "forest") for tree in trees]
    yield f"| language | {' | '.join(f'{key}, {tree}' for key, tree in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    languages = list(dict.fromkeys(row["language"] for row in rows))
    for language in languages:
        own = [row for row in rows if row["language"] == language]
        cells = [mean([row for row in own if row["tree"] == t], key) for key, t in columns]
        yield f"| {language}{'*' * (language in late)} | {' | '.join(cells)} |"
    first = [language for language in languages if language not in late]
    for called, some in (("mean", first), ("mean, late", late)):
        of_seeds = [
            [
                np.mean(
                    [
                        r[key]
                        for r in rows
                        if (r["tree"], r["seed"]) == (t, s) and r["language"] in some
                    ]
                )
                for s in dict.fromkeys(row["seed"] for row in rows if row["tree"] == t)
            ]
            for key, t in columns
        ]
        cells = [mean([{"of": value} for value in values], "of") for values in of_seeds]
        yield f"| {called} | {' | '.join(cells)} |"


def show_parents(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: what each language branched from by posterior, by random seed."""
    own = [row for row in rows if row["tree"] == "posterior"]
    seeds = list(dict.fromkeys(row["seed"] for row in own))
    yield f"| language | {' | '.join(f'parents, seed {seed}' for seed in seeds)} |"
    yield "|---" * (len(seeds) + 1) + "|"
    for language in dict.fromkeys(row["language"] for row in own):
        cells = [row["parents"] for row in own if row["language"] == language]
        yield f"| {language} | {' | '.join(cells)} |"


def show_identify(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table for each length: languages by ways, with what they are taken for."""
    about = {"seed", "language", "tokens", "way", "texts"}
    columns = [key for key in rows[0] if key not in about]
    found: list[Row] = []
    for language in columns:
        line: Row = {"language": language}
        own = [row for row in rows if row["language"] == language]
        for tokens, way in dict.fromkeys((row["tokens"], row["way"]) for row in own):
            some = [row for row in own if (row["tokens"], row["way"]) == (tokens, way)]
            counts = {c: sum(int(row[c]) for row in some) for c in columns}
            texts = sum(int(row["texts"]) for row in some)
            wrong = sorted((n, c) for c, n in counts.items() if n and c != language)[::-1]
            others = " ".join(f"{c}:{n}" for n, c in wrong[:3])
            line[f"{way} {tokens}"] = f"{counts[language] / texts:.3f} {others}".strip()
        found.append(line)
    yield table(found, "share of texts that are recognised, and what others are taken for")
