"""The report as a page: what it inlines, and what a reader sees in a real Chromium."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest
from browsing import CHROMIUM, HOME, NODE, driven

from btm.cli.verbs import grown_again
from btm.forest import Forest
from btm.report import html
from btm.steps import report as write
from btm.steps.report import Cycle, JobRow, Try, gather

VENDOR = resources.files("btm.report.html").joinpath("vendor")
EVIL = "</script><script>alert(1)</script><!--"


def test_what_is_inlined_is_as_it_was_published_and_its_licences_stand_in_the_page():
    licences = VENDOR.joinpath("LICENSES.txt").read_text()
    page = html.page("a forest", {})
    for name in ("d3.min.js", "plot.umd.min.js"):
        content = VENDOR.joinpath(name).read_bytes()
        assert hashlib.sha256(content).hexdigest() in licences
        assert content.decode() in page
    assert licences.splitlines()[-1] in page


def test_texts_of_a_forest_end_no_script():
    facts = {"forest": EVIL, "tokens": ["<b>", "\u2028", "é"]}
    page = html.page(EVIL, facts)
    assert EVIL not in page and "&lt;/script&gt;" in page
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.S)
    assert json.loads(found[1]) == facts


def test_a_number_that_json_has_none_for_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        html.page("a forest", {"loss": float("nan")})


CYCLE = Cycle(
    "0123456789ab",
    "stopped",
    "local",
    [
        Try("seed", "seed", 1, "done", 1000.0, 1060.0),
        Try("train-bible", "train", 1, "killed", 1060.0, 1075.0, "signal 9"),
        Try("train-bible", "train", 2, "done", 1080.0, 1130.0),
    ],
    ["finish"],
    [
        JobRow("train-bible", "running", 2, "5/12", 3.25, 1234, "1 min 01 s", "seed 1", EVIL),
        JobRow("finish", "waiting", 0, "", None, None, None, "", ""),
    ],
)
LATE = f"forest.json is not of the forest as it stands: {EVIL}"


@pytest.fixture(scope="module")
def seen(browser, grown, tmp_path_factory):
    """What a reader of the shared forest's report saw."""
    config = grown[0]
    file = tmp_path_factory.mktemp("report") / "report.html"
    facts = gather(config, CYCLE, grown_again.rebuilding(Path(config.forest_root)))
    file.write_text(html.page("report", asdict(facts)))
    live = file.with_name("live.html")
    late = replace(facts, live=3600, outdated={"evaluation": [LATE], "ways": [LATE]})
    live.write_text(html.page("report", asdict(late)))
    asked = {"home": str(HOME), "chromium": CHROMIUM, "url": file.as_uri(), "live": live.as_uri()}
    said = driven([NODE, Path(__file__).with_name("report.mjs")], json.dumps(asked))
    return json.loads(said.splitlines()[-1]) | {"facts": facts}


@pytest.mark.slow
def test_nothing_bars_a_reader_in_either_scheme_and_nothing_is_asked_of_others(seen):
    assert seen["barriers"] == seen["said"] == seen["elsewhere"] == []
    light, dark = seen["papers"]
    assert light != dark == seen["chosen"]
    assert seen["wide"] == [0]  # on a phone


@pytest.mark.slow
def test_the_page_says_what_stands_in_the_forest(seen, grown):
    forest = Forest(grown[0].forest_root)
    evaluation = json.loads(forest.paths.evaluation(None).read_text())
    assert seen["title"] == forest.root.name and len(seen["parts"]) == 13
    own = next(row for row in seen["tables"]["models"] if row[0] == "ensemble")
    trained = [s["ensemble"]["perplexity"] for s in evaluation["shards"].values() if not s["novel"]]
    assert float(own[5]) == pytest.approx(sum(trained) / len(trained), rel=6e-3)
    assert {row[0] for row in seen["tables"]["lineage"]} >= set(forest.names())
    for elm in forest.elms():
        row = next(row for row in seen["tables"]["lineage"] if row[0] == elm.name)
        wanted = [f"{p} {float(f'{w.weight:.3g}'):g}" for p, w in elm.card.parents.items()]
        assert row[2] == (", ".join(wanted) or "–")
    steps = {row[0]: row[2] for row in seen["tables"]["curves"]}
    assert steps["bible"] == "12" and steps["seed"] == "24"
    jobs, tries = seen["tables"]["cycle"][:2], seen["tables"]["cycle"][2:]
    running = ["train-bible", "running", "2", "5/12", "3.250", "1,234", "1 min 01 s", "seed 1"]
    assert jobs == [[*running, EVIL], ["finish", "waiting", *["–"] * 7]]
    tries = [(row[0], row[1], row[2], row[5]) for row in tries]
    assert tries[1:] == [
        ("train-bible", "1", "killed", "signal 9"),
        ("train-bible", "2", "done", "–"),
    ]
    assert {"bible", "seed"} <= {row[0] for row in seen["tables"]["costs"]}
    assert seen["missing"].keys() == {"languages", "readers", "benchmarks"}
    assert seen["command"].startswith("btm run forest=")


@pytest.mark.slow
def test_the_heat_map_is_told_to_those_who_use_keys_alone(seen):
    found = seen["facts"].evaluation
    first, domain = found.columns[0], found.domains[0].name
    assert seen["first"].startswith(f"{first} on {domain}")
    assert seen["moved"].startswith(f"{found.columns[1]} on {found.domains[1].name}")
    at = found.kinds.index("seed")
    for row, values in zip(seen["heat"], found.perplexity, strict=True):
        ratios = [value / values[at] for value in values]
        assert [float(cell) for cell in row[1:]] == pytest.approx(ratios, rel=6e-3, abs=6e-4)


@pytest.mark.slow
def test_a_live_page_reads_itself_again_until_its_reader_says_no(seen):
    assert seen["live"] == {"again": True, "top": 700, "rests": True}


@pytest.mark.slow
def test_jobs_are_a_table_that_a_screen_reader_can_name(seen):
    caption, columns, row = seen["jobs"]
    assert caption == "Every job as it stands"
    assert columns == ["col"] * 9 and row == "row"


@pytest.mark.slow
def test_results_of_what_is_no_more_are_named_at_the_top_and_in_each_part(seen):
    assert seen["late"] == {"main": [LATE], "models": [LATE], "heat": [LATE], "weights": [LATE],
                            "tokens": [LATE]}  # fmt: skip


@pytest.mark.slow
def test_drawings_can_be_read(seen):
    assert seen["weights"]["number"] >= 4 and seen["weights"]["over"] == []
    assert len(set(seen["ticks"])) >= 3  # the axis of ratios, narrow as it is


@pytest.mark.slow
def test_on_paper_every_part_is_there_and_nothing_is_cut_off(seen):
    paper = seen["paper"]
    assert paper["printed"] > 40 and paper["tables"] > 8
    assert paper["hidden"] == paper["cut"] == [] and paper["closed"] == 0


@pytest.mark.slow
def test_tokens_are_told_one_by_one(seen):
    samples = {"".join(s.texts): s for s in seen["facts"].samples}
    text = "".join(each for each in seen["texts"] if each != "·")
    assert text in samples
    assert f"(token {len(samples[text].texts)})" in seen["token"]


def test_a_report_is_one_small_file_and_says_where_it_is(grown, tmp_path):
    config = replace(grown[0], to=str(tmp_path / "a.html"))
    file = write(config)
    assert file == tmp_path / "a.html" and file.stat().st_size < 1_000_000
    assert "No cycle has left its records here" in file.read_text()
