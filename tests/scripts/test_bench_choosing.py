"""The sweep of defaults: its cells, and that docs/choosing.md says what its CSV does."""

import argparse
import csv
import math
import re

import pytest
from folders import ROOT

from bench import choosing

RESULTS = ROOT / "docs/results/choosing"
ROWS = list(csv.DictReader((RESULTS / "defaults.csv").read_text().splitlines()))
LARGER = {  # as the page says it: the rows
    "1.05 M": list(csv.DictReader((RESULTS / "defaults-1m.csv").read_text().splitlines()))
}
TABLE = re.findall(
    r"^\| (\w+|1\.05 M) \| (\d) \| (\S+) \| (\S+) \| (\S+) \| (\S+) / (\S+) \| (\d) of (\d) \|$",
    (ROOT / "docs/choosing.md").read_text(),
    re.MULTILINE,
)


def ratio(suite, seed, column, novel):
    """The geometric mean, over domains, of a forest's perplexity over the dense LM's; of the demo's
    text where a number of parameters stands for `suite`.
    """
    rows = LARGER.get(suite, [row for row in ROWS if row["suite"] == suite])
    own = {(r["kind"], r["domain"]): r for r in rows if r["seed"] == seed}
    domains = [d for (kind, d), r in own.items() if kind == "forest" and r["novel"] == str(novel)]
    gains = [float(own["forest", d][column]) - float(own["dense", d]["root"]) for d in domains]
    return math.exp(sum(gains) / len(gains)), sum(gain < 0 for gain in gains), len(gains)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(row[:2]))
def test_the_page_says_what_was_measured(row):
    suite, seed, *said, ahead, of = row
    columns = [
        ("gated", False),
        ("gated", True),
        ("own", False),
        ("cached", False),
        ("cached", True),
    ]
    for number, (column, novel) in zip(said, columns, strict=True):
        assert float(number) == pytest.approx(ratio(suite, seed, column, novel)[0], abs=6e-4)
    assert (int(ahead), int(of)) == ratio(suite, seed, "gated", False)[1:]


def test_all_suites_and_seeds_are_on_the_page():
    assert {row[:2] for row in TABLE} == {
        *((suite, str(seed)) for suite in choosing.SUITES for seed in range(3)),
        *((size, row["seed"]) for size, rows in LARGER.items() for row in rows),
    }


FEW = list(csv.DictReader((ROOT / "docs/results/choosing/few-steps.csv").read_text().splitlines()))
FEW_TABLE = re.findall(
    r"^\| (\w+) \| (forest|dense) \| (\d+) \| (0\.\d+) \| (\S+) \| (\S+) \| (\d) of 8 \|$",
    (ROOT / "docs/choosing.md").read_text(),
    re.MULTILINE,
)


def few(suite, kind, batch, fraction):
    """The rows of a cell with few steps."""
    return [
        row
        for row in FEW
        if (row["suite"], row["kind"], row["batch"]) == (suite, kind, batch)
        and float(row["fraction"]) == float(fraction)
    ]


@pytest.mark.parametrize("row", FEW_TABLE, ids=lambda row: " ".join(row[:4]))
def test_the_page_says_what_few_steps_gave(row):
    suite, kind, batch, fraction, trained, novel, ahead = row

    def nats(rows):
        return sum(float(row["root"]) for row in rows if row["novel"] == "False")

    batches = {row["batch"] for row in FEW if (row["suite"], row["kind"]) == (suite, "dense")}
    best = min((few(suite, "dense", each, "0.5") for each in batches), key=nats)
    column = "gated" if kind == "forest" else "root"
    pairs = list(zip(few(suite, kind, batch, fraction), best, strict=True))
    for number, novelty in ((trained, "False"), (novel, "True")):
        gains = [float(a[column]) - float(b["root"]) for a, b in pairs if a["novel"] == novelty]
        assert float(number) == pytest.approx(math.exp(sum(gains) / len(gains)), abs=6e-4)
    wins = [float(a[column]) < float(b["root"]) for a, b in pairs if a["novel"] == "False"]
    assert sum(wins) == int(ahead)


@pytest.mark.slow
def test_cells_of_a_part_have_names_of_their_own_and_equal_tokens(tmp_path):
    args = argparse.Namespace(corpora=tmp_path, out=tmp_path)
    settings = [*choosing.rates(), *choosing.schedules(), *choosing.default()]
    cells = {choosing.Cell("demo", "0.2m", 0, setting) for setting in settings}
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        config = choosing.config_of(cell, args)
        steps = config.seed.steps + 8 * config.trainer.steps
        assert steps * config.trainer.batch_size * config.trainer.seq_len == 3840 * 2048
