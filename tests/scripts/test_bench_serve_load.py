"""The bench of a server under load, for seconds; docs/serving.md has what ten minutes gave."""

import re
import sys

import pandas as pd
import pytest
from folders import ROOT

from bench import serve_load


@pytest.mark.slow
def test_a_server_that_is_asked_for_too_much_refuses_and_does_not_fail(
    grown, tmp_path, monkeypatch, capsys
):
    words = [f"forest={grown[0].forest_root}", "trainer.device=cpu", "--minutes", "0.08"]
    file = tmp_path / "load.csv"
    monkeypatch.setattr(sys, "argv", ["serve_load.py", *words, "--csv", str(file)])
    serve_load.main()
    row = pd.read_csv(file).iloc[0]
    assert row["failures"] == 0 and row["requests refused (429)"] > 0
    assert row["requests answered"] > 0 and row["memory MB, last quarter"] > 50
    assert "requests refused (429)" in capsys.readouterr().out


def test_the_page_says_what_was_measured():
    page = (ROOT / "docs/serving.md").read_text()
    row = pd.read_csv(ROOT / "docs/results/serving/load.csv").iloc[0]
    assert row["seconds"] == 600 and row["failures"] == 0
    for name, pattern in {
        "requests answered": r"([\d,]+) requests were answered",
        "requests refused (429)": r"([\d,]+) refused",
    }.items():
        found = re.search(pattern, page)
        assert found and int(found[1].replace(",", "")) == row[name]
    found = re.search(r"from ([\d.]+) to ([\d.]+) MB", page)
    memory = [row["memory MB, first quarter"], row["memory MB, last quarter"]]
    assert [float(x) for x in found.groups()] == pytest.approx(memory, abs=0.06)
    assert abs(row["drift"]) < 0.05


def test_the_page_on_performance_says_what_llama_cpp_was_measured_at():
    page = (ROOT / "docs/performance.md").read_text()
    rows = pd.read_csv(ROOT / "docs/results/serving/llama.csv")
    for row in rows[rows["part"] == "llama"].itertuples():
        wanted = rf"\| {row.texts} \| ([\d.,]+) \| ([\d.,]+) \| {row.ratio - 1e-9:.2f} \|"
        found = re.search(wanted, page)
        assert found, wanted
        said = [float(number.replace(",", "")) for number in found.groups()]
        assert said == pytest.approx([row[5], row[7]], rel=0.02)


def test_the_page_on_performance_says_what_the_engine_was_measured_at():
    page = (ROOT / "docs/performance.md").read_text()
    rows = pd.read_csv(ROOT / "docs/results/serving/engine.csv")
    batching = rows[rows["part"] == "batching"]
    wanted = "| tokens/s of all | " + " | ".join(f"{n:.0f}" for n in batching["tokens/s"])
    assert wanted in page
    for ratio in rows["ratio"].dropna():
        assert re.search(rf"\| yes \| .* \| {ratio:.2f} \|", page)
    for ratio in pd.read_csv(ROOT / "docs/results/serving/overhead.csv")["ratio"]:
        assert f" | {ratio:.2f} | " in page
