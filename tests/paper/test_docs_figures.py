"""Every figure of docs/paper.md that comes from docs/results is the one of its CSV.

A claim below is a piece of the page with a name for each figure; what its CSV gives must stand
there. What no claim covers must not look like a figure.
"""

import re

import pandas as pd
import pytest
from folders import ROOT

from btm.paper.bootstrap import SCOPES, Nats, ratios

RESULTS = ROOT / "docs/results"
PAGE = (ROOT / "docs/paper.md").read_text()
IN, NOVEL, ALL = SCOPES
PAPER = "forest: cached prior (paper)"
GATED = "forest: gated"


def section(size):
    """The text of the page on one size, on one line."""
    return " ".join(PAGE.partition(f"### Size `{size}`")[2].partition("\n### ")[0].split())


def ratio(size, row, scope, over="dense", intervals=False):
    name = "ratios.csv" if over == "dense" else "ratios-to-the-paper.csv"
    table = pd.read_csv(RESULTS / size / name).set_index(["row", "scope"])
    found = table.loc[(row, scope)]
    if not intervals:
        return f"{found['ratio']:.3f}"
    return f"{found['ratio']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def varied(size, ablation, value, row, scope):
    table = pd.read_csv(RESULTS / size / "ablations.csv", dtype={"value": str})
    found = table.set_index(["ablation", "value", "row", "scope"])["ratio"]
    return f"{found[(ablation, value, row, scope)]:.3f}"


def beside_demix(size, row, demix, scope):
    """A row of the forest over one of DEMix, with its interval, from the nats of documents."""
    documents = pd.read_csv(RESULTS / size / "documents.csv.gz")
    found = ratios(Nats.of(documents[documents["row"].isin([row, demix])]), demix, 2000)
    record = found.set_index(["row", "scope"]).loc[(row, scope)]
    return f"{record['ratio']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"


def both(size, row, template="{} / {}", **how):
    return template.format(*(ratio(size, row, scope, **how) for scope in (IN, NOVEL)))


def lines(size):
    """The claims of the tables: a row's name on the page, then its cells."""
    grown = set(pd.read_csv(RESULTS / size / "ratios.csv")["row"])
    for name, row in LINES.items():
        if row not in grown:
            assert f"| {name} |" not in section(size), "the page has a row that the table has not"
            continue
        yield f"| {name} | {both(size, row, '{} | {}', intervals=True)} |"


# Rows of the page, and of the files; a size has those whose studies it has grown.
LINES = {
    "forest, gated": GATED,
    "forest, gated, uniform prior, fitted once: from the text alone": (
        "forest: gated, uniform prior, fitted once"
    ),
    "forest, tracking": "forest: tracking",
    "forest, the paper's cached prior": PAPER,
    "posterior average, one model": "average: posterior",
    "average by the token prior, one model": "average: token",
    "top-1, one model for a token": "forest: gated, top-1",
    "top-1 after 16 of 128 tokens, 1.9 models for a token": (
        "forest: gated, top-1 after 16 tokens"
    ),
    "top-2 after 16 of 128 tokens, 2.8 models for a token": (
        "forest: gated, top-2 after 16 tokens"
    ),
    "student of the posterior, one model": "student: posterior",
    "student of `gated`, one model": "student: gated",
    "token average trained on, one model": "average: token, trained on",
    "mixture of experts, finetuned, two networks of eight": "MoE: finetuned",
    "mixture of experts, ridge router, two networks of eight": "MoE: ridge",
    "DEMix, cached prior": "demix: cached prior",
    "DEMix, gated": "demix: gated",
    "random split, cached prior": "random_split: cached prior",
}
FRACTIONS = ("0", "0.25", "0.5", "0.75")


def main_claims(size):
    """The claims that every size makes: of the table, and of the paper's one by one."""

    def r(row, scope=IN):
        return ratio(size, row, scope)

    yield from lines(size)
    over = ratio(size, GATED, NOVEL, over=PAPER, intervals=True)
    yield f"| gated, over the cached prior | | {over} |"
    yield f"beats the dense LM in-domain | {r(PAPER)} |"
    yield f"posterior; {r(GATED, NOVEL)} with `gated`"
    yield f"on novel domains | {r(PAPER, NOVEL)} |"
    demix = both(size, "demix: cached prior")
    ahead = beside_demix(size, PAPER, "demix: cached prior", IN)
    gated = beside_demix(size, GATED, "demix: gated", NOVEL)
    yield (
        f"it beats DEMix | {both(size, PAPER)} against {demix} | in-domain: {ahead} of it; with "
        f"`gated` on both sides on novel domains too: {gated} |"
    )
    yield f"random domains do not work | {both(size, 'random_split: cached prior')} |"
    yield f"at equal inference cost | {both(size, 'average: posterior')} |"
    yield f"uniform averages are bad | {both(size, 'average: uniform')} |"


def small():
    def r(row, scope=IN):
        return ratio("small", row, scope)

    yield from main_claims("small")
    yield f"is at {r(PAPER)} of the dense LM in-domain instead of {ratio('mini', PAPER, IN)} under"
    yield f"under `gated` {r(GATED)} and {ratio('mini', GATED, IN)} cannot be told apart"
    averages = [(r(f"average: {how}", ALL), r(f"average: {how}", NOVEL)) for how in WEIGHTS]
    yield f"{averages[0][0]} of the dense LM over all domains instead of {averages[1][0]}"
    yield f"{averages[0][1]} on novel ones instead of {averages[1][1]}"


WEIGHTS = ("token", "posterior")


def mini():
    def r(row, scope=IN):
        return ratio("mini", row, scope)

    def v(ablation, value, row=PAPER, scope=IN):
        return varied("mini", ablation, value, row, scope)

    def new(scheme):
        return v("initialisation", scheme, "the new expert on its domain")

    yield from main_claims("mini")
    none = [v("seed fraction", "0", PAPER, scope) for scope in (IN, NOVEL)]
    yield f"without a seed phase nothing works | {' / '.join(none)}, one seed |"
    share = {fraction: v("seed fraction", fraction) for fraction in FRACTIONS}
    yield f"| {share['0.25']} at 25 %, {share['0.5']} at 50 %, {share['0.75']} at 75 %, one seed |"
    yield (
        f"| {new('posterior')}, token {new('token')}, argmax {new('argmax')}, "
        f"uniform {new('uniform')}, copy {new('copy')}, one seed |"
    )
    second = [v("second round", "posterior", PAPER, scope) for scope in (IN, NOVEL)]
    before = [v("seed fraction", "0.5", PAPER, scope) for scope in (IN, NOVEL)]
    yield f"{' / '.join(second)} over 12 domains, from {' / '.join(before)} over 8"
    kept = {k: v("experts kept", k, GATED) for k in "248"}
    yield f"the cached prior: {v('experts kept', '1')} with 1 of 8"
    yield f"`gated`: {kept['2']} with 2, {kept['4']} with 4, {kept['8']} with 8"
    few = {n: v("valid sequences", n) for n in ("1", "3", "10")}
    yield f"| {few['1']} with 1, {few['3']} with 3, {few['10']} with 10 |"
    yield f"are at {r(PAPER)} under the paper's cached prior and at {r(GATED)} under `gated`"
    yield f"on novel domains at {r(PAPER, NOVEL)} and {r(GATED, NOVEL)}"


CLAIMS = {"small": small, "mini": mini}


@pytest.mark.parametrize("size", CLAIMS)
def test_every_figure_of_the_page_is_that_of_its_table(size):
    left = section(size)
    for claim in CLAIMS[size]():
        assert claim in section(size), f"docs/results/{size} says: {claim}"
        left = left.replace(claim, "")
    assert not re.findall(r"(?<![\w.])\d\.\d{3}\b", left), "a figure that no table is asked for"


def test_the_seed_fractions_of_choosing_are_those_of_mini():
    shares = [varied("mini", "seed fraction", value, PAPER, IN) for value in FRACTIONS]
    text = " / ".join(share.removeprefix("0") for share in shares)
    assert f"0 / 25 / 50 / 75 %: {text}" in (ROOT / "docs/choosing.md").read_text()


def remembered(size):
    """A line of the page for each row and memory in a size's memory.csv."""
    table = pd.read_csv(RESULTS / size / "memory.csv")
    for (memory, row), part in table.groupby(["memory", "row"], sort=False):
        found = part.set_index([part["over"].str.contains("cache"), "scope"])["ratio"]
        cells = [
            f"{found[(cached, scope)]:.3f}" for cached in (False, True) for scope in (IN, NOVEL)
        ]
        yield f"| {size} | {row} | {memory} | {' | '.join(cells)} |"


def test_what_is_memory_is_said_from_the_tables():
    """Size, then rows: ratio to dense in-domain and novel, to dense + cache in-domain and novel."""
    text = PAGE.partition("### What part of the gain is memory")[2].partition("\n### ")[0]
    for size in CLAIMS:
        for line in remembered(size):
            assert line in text, f"docs/results/{size}/memory.csv says: {line}"


def test_the_table_of_committing_early_is_that_of_its_csv():
    table = pd.read_csv(RESULTS / "demo/commit.csv")
    commits = table[table["kind"] == "commit"].set_index(["N", "k"])
    page = (ROOT / "docs/one-model.md").read_text()
    section = page.partition("## Commit early")[2].partition("\n### ")[0]
    said = re.findall(r"^\| (\d+) \| (\d) \| (\S+) \| (\S+) \| (\S+) \|$", section, re.M)
    assert len(said) == 8 and len(commits) == 15
    for tokens, experts, *figures in said:
        row = commits.loc[(int(tokens), int(experts))]
        found = (row["experts run"], row["in-domain / ensemble"], row["novel / ensemble"])
        assert figures == [f"{found[0]:.2f}", *(f"{ratio:.3f}" for ratio in found[1:])]


def test_the_table_of_every_way_is_that_of_its_csv():
    table = pd.read_csv(RESULTS / "demo/one-model.csv")
    page = (ROOT / "docs/one-model.md").read_text()
    section = page.partition("## Which to choose")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(table) == 16
    for line, (_, row) in zip(rows, table.iterrows(), strict=True):
        cost = f"{row['models run']:.2f} | {row['training FLOPs']:.3g}"
        assert line.endswith(f" | {cost} | {row['in-domain']:.1f} | {row['novel']:.1f} |")
    by_name = table.set_index("model")["in-domain"]
    over = by_name["moe-finetuned"] / by_name["demo-dense"]
    assert f"({over:.2f} of it, at 1.26 models" in section


def test_the_table_of_averages_along_the_way_is_that_of_its_csv():
    table = pd.read_csv(RESULTS / "demo/trajectory.csv")
    page = (ROOT / "docs/one-model.md").read_text()
    section = page.partition("## Average along the way")[2].partition("\n## ")[0]
    said = re.findall(r"^\| (cosine|constant) \| (.+?) \|", section, re.MULTILINE)
    assert len(said) == 5
    for schedule, weights in said:
        own = table[(table["schedule"] == schedule) & (table["weights"] == weights)].set_index(
            "model"
        )
        cells = [
            f"{own.loc[model, 'in-domain']:.1f} / {own.loc[model, 'novel']:.1f}"
            for model in ("dense LM", "seed", "ensemble")
        ]
        assert f"| {schedule} | {weights} | {' | '.join(cells)} |" in page


def test_what_is_said_of_one_model_at_size_small_is_in_its_tables():
    page = " ".join((ROOT / "docs/one-model.md").read_text().split())
    names = {
        "average: token": 0,
        "average: argmax": 0,
        "student: gated": 1,
        "student: posterior": 1,
    }
    names |= {"average: token, trained on": 2, "MoE: finetuned": 3}
    said = ("domain (0.92)", "students (1.14)", "trained on (1.17)", "mixture (1.12 of it)")
    for row, place in names.items():
        assert f"({float(ratio('small', row, IN)):.2f}" in said[place]
        assert said[place] in page


def test_what_the_readme_says_of_small_is_in_its_tables():
    gated = pd.read_csv(RESULTS / "small/ratios.csv").set_index(["row", "scope"]).loc[(GATED, IN)]
    said = f"{gated['ratio']:.2f} [{gated['low']:.2f}, {gated['high']:.2f}]"
    assert gated["seeds"] == 3
    for page in ("README.md", "docs/when.md"):
        assert said in " ".join((ROOT / page).read_text().split())
    assert f"is at {gated['ratio']:.2f} of its dense LM" in (ROOT / "docs/choosing.md").read_text()


def test_what_the_readme_says_of_mini_is_in_its_tables():
    readme = " ".join((ROOT / "README.md").read_text().split())
    table = pd.read_csv(RESULTS / "mini/ratios.csv").set_index(["row", "scope"])
    gated = table.loc[(GATED, IN)]
    ends = f"[{gated['low']:.2f}, {gated['high']:.2f}]"
    assert f"{gated['ratio']:.2f} {ends} under five seeds" in readme
    assert gated["seeds"] == 5
    memory = pd.read_csv(RESULTS / "mini/memory.csv").set_index(["row", "over", "scope"])["ratio"]
    cached = [memory[("forest: gated + cache", "dense + cache", scope)] for scope in (IN, NOVEL)]
    assert f"five seeds at {cached[0]:.2f} / {cached[1]:.2f}" in readme
