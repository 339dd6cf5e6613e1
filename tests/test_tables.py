"""The tables of docs that show rows of a CSV say what stands there."""

import csv
import json
import re

import pytest
from folders import ROOT

DOCS = ROOT / "docs"
_NUMBER = re.compile(r"[-+−]?(?:\d[\d,]*\.\d+|\.\d+|\d[\d,]*)(?:e[-+]?\d+)?", re.IGNORECASE)
_UNITS = (1, 100, 1e-3, 1e-6, 1e-9)  # as stored; in percent, thousands, millions, billions

# Where each row of the table is a row of the file.
BY_ROW = [
    ("averaging.md", "demo/search.csv"),
    ("commons.md", "commons/together.csv"),
    ("commons.md", "commons/hivemind.csv"),
    ("instructions.md", "demo/instructions.csv"),
    ("instructions.md", "instructions/instructions.csv"),
    ("moe.md", "demo/moe.csv"),
    ("performance.md", "performance/neighbour.csv"),
    ("performance.md", "performance/optimizer.csv"),
    ("performance.md", "performance/mixing.csv"),
]
# Where a row of the table has figures of several.
BY_FIGURE = [("one-model.md", "demo/recall.csv")]


def numbers(text):
    return _NUMBER.findall(text)


def value(number):
    return float(number.replace(",", "").replace("−", "-"))


def stands_in(row, number):
    """Whether a row of a file has a number, rounded as it is written."""
    wanted, _, power = number.lower().partition("e")
    half = 0.5001 * 10.0 ** (int(power or 0) - len(wanted.partition(".")[2]))
    return any(abs(stored * unit - value(number)) <= half for stored in row for unit in _UNITS)


def table_below(page, link):
    """The rows of the first table below the paragraph that links to a file, without their names."""
    _, link, below = (DOCS / page).read_text().partition(f"(results/{link})")
    assert link, "the page links to the file"
    rows = re.search(r"^\|.*\n\|[-| :]+\|\n((?:\|.*\n)+)", below, re.MULTILINE)[1].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def stored(link):
    with (DOCS / "results" / link).open(newline="") as file:
        return [[value(n) for cell in row for n in numbers(cell)] for row in csv.reader(file)]


def strays(page, link, rows):
    """The rows of a table that no row of `rows` has whole."""
    found = []
    for name, *cells in table_below(page, link):
        figures = [number for cell in cells for number in numbers(cell)]
        assert figures, name
        if not any(all(stands_in(row, figure) for figure in figures) for row in rows):
            found.append(name)
    return found


@pytest.mark.parametrize(("page", "link"), BY_ROW)
def test_a_row_is_one_of_the_file(page, link):
    rows = stored(link)
    assert not strays(page, link, rows)
    moved = [[number * 1.05 for number in row] for row in rows]
    assert strays(page, link, moved), "a row that differs is seen"


@pytest.mark.parametrize(("page", "link"), BY_FIGURE)
def test_every_figure_is_one_of_the_file(page, link):
    everything = [number for row in stored(link) for number in row]
    assert not strays(page, link, [everything])


def test_what_the_teachers_of_a_student_cost_is_said():
    with (DOCS / "results/demo/one-model.csv").open(newline="") as file:
        flops = {row["model"]: float(row["training FLOPs"]) for row in csv.DictReader(file)}
    begun, alone = flops["token"], flops["token-trained-on"]
    ratio = (flops["student-gated"] - alone) / (alone - begun)
    text = " ".join((DOCS / "one-model.md").read_text().split())
    assert f"the teachers' reading costs {ratio:.1f} times the student's training" in text


@pytest.mark.parametrize("seed", [0, 1])
def test_the_readers_of_snli_are_those_of_the_comparison(seed):
    page = (DOCS / "readers.md").read_text()
    _, _, section = page.partition("### SNLI")
    rows = json.loads((DOCS / f"results/readers/snli-{seed}.json").read_text())["rows"]
    assert len(rows) == 5
    for row in rows:
        mean, low, high = (f"{each:.3f}"[1:] for each in row["values"]["accuracy"])
        ahead = [f"{each:+.3f}".replace("0.", ".", 1) for each in row["behind"]["accuracy"]]
        gain = "" if row["on"] == "forest" else f"{ahead[0]} [{ahead[1]}, {ahead[2]}]"
        assert f"| {mean} [{low}, {high}] | {gain} |".replace("|  |", "| |") in section


ATTACKS = {  # the rows of gate.md, and the kinds of attacks-fresh.csv that each has
    "honest experts": ["honest"],
    "NaN, wrong shapes, too large, links, code, pickles": [
        *("not_finite", "shapes", "oversize", "path_tricks")
    ],
    "δ × 10, −δ, random weights, a parent sent back": [
        *("scale10", "sign_flip", "random", "copied_parent")
    ],
    "another's expert, also with noise of 20 % of δ": ["anothers", "anothers_noise"],
    "backdoor, the trigger among the probes": ["backdoor"],
    "backdoor, another trigger": ["backdoor_unknown"],
    "1/2 to 1/16 of the text shuffled": ["poisoned"],
    "an expert of another domain": ["other_domain"],
    "trained on the gate's own held-out text": ["held_out"],
}


def test_the_attacks_of_the_gate_are_those_that_were_judged():
    with (DOCS / "results/commons/attacks-fresh.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {kind for kinds in ATTACKS.values() for kind in kinds}
    table = {name: cells for name, *cells in table_below("gate.md", "commons/attacks-fresh.csv")}
    assert table.keys() == ATTACKS.keys()
    for name, kinds in ATTACKS.items():
        found = [row for row in rows if row["kind"] in kinds]
        admitted = sum(row["admitted"] == "True" for row in found)
        harm = max((float(row["others"]) for row in found if row["others"]), default=None)
        tried, let_in, checks, greatest = table[name]
        assert (int(tried), int(let_in)) == (len(found), admitted)
        assert greatest == ("—" if harm is None else f"{harm:.4f}")
        refused_by = {check for row in found for check in row["failed"].split()}
        assert set(re.findall(r"`(\w+)`", checks)) == refused_by
