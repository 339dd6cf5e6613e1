"""A commons behind slow lines, as it was measured; and the simulation at its smallest: everything
wanted is admitted once, in spite of failures and of those who cheat.
"""

import json
import subprocess
import sys

import pandas as pd
import pytest
from folders import ROOT

FOUND = ROOT / "docs/results/commons/network"


def test_behind_slow_lines_every_domain_was_admitted_once_and_the_page_says_so():
    rows = pd.read_csv(FOUND.with_suffix(".csv"), keep_default_na=False)
    found = json.loads(FOUND.with_suffix(".json").read_text())
    admitted = rows[rows["verdict"] == "admitted"]
    assert sorted(admitted["domain"]) == sorted(set(rows["domain"]))
    refused = rows[rows["verdict"] == "rejected"].set_index("who")["reason"].to_dict()
    assert refused == {"mal": "own", "eve": "revoked-key", "fay": "stale-parent"}
    assert found["store"]["of these lost"] == []
    means = [found["nats/token, mean of all domains"], found["nats/token, mean of the contributed"]]
    assert all(abs(each["commons"] - each["one machine"]) < 0.01 for each in means)
    page = (ROOT / "docs/commons.md").read_text()
    said = [f"{loss:.4f}" for each in means for loss in each.values()]
    said += [f"in {found['seconds']} s", f"the {found['store']['objects before']} objects"]
    said += [
        f"{row.who}, {row.speed:,.0f}" for row in rows[:9].itertuples() if row.who in "ann ben"
    ]
    assert not [words for words in said if words not in page]


def test_a_thousand_simulated_volunteers_lose_little_of_the_ideal():
    found = json.loads((FOUND.parent / "simulated_1000.json").read_text())
    assert found["throughput over ideal"] >= 0.85
    row = f"| {found['admitted']} | {found['throughput over ideal']} | {found['taken over']} |"
    assert row in (ROOT / "docs/commons.md").read_text()


@pytest.mark.slow
def test_volunteers_come_and_go_until_all_is_admitted():
    program = [sys.executable, ROOT / "scripts/bench/commons.py", "--malicious=0.3", "--hours=1"]
    program += ["--volunteers=24", "--experts=16", "--gap=3600", "--failures=0.02", "--most=48"]
    ran = subprocess.run(program, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found["admitted"] == found["wanted"] == 16  # it stops where one is admitted twice
    assert found["taken over"] > 0 and found["requests that failed"] > 0
    assert found["rejected by the gate"] > 0
    assert found["claims before the lease was over, none of which held"] > 0


def test_the_table_of_several_volunteers_is_that_of_the_runs():
    page = (ROOT / "docs/commons.md").read_text()
    rows = pd.read_csv(ROOT / "docs/results/commons/together.csv")
    assert len(rows) > 3
    for row in rows.to_dict("records"):
        shares = ", ".join(row["shares"].split())
        over = f"{row['difference']:+.3f}".replace("-", "−")
        assert f"| {shares} | {row['four']:.3f} | {over} |" in page
        assert f"(η {row['outer lr']:g}, μ {row['momentum']:g}" in page
