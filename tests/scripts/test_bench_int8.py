"""The bench of int8: docs/int8.md says what its CSVs do, and they say what int8 is claimed to do."""

import re

import pandas as pd
import pytest
from folders import ROOT
from transformers import LlamaConfig, LlamaForCausalLM

from bench import int8

PAGE = (ROOT / "docs/int8.md").read_text()
CSV = {
    name: pd.read_csv(ROOT / f"docs/results/int8/{name}.csv")
    for name in ("experts", "ensemble", "time", "memory")
}


def rows(pattern):
    return re.findall(pattern, PAGE, re.MULTILINE)


def test_the_page_says_what_was_measured():
    said = rows(r"^\| [^|]+ \| (0\.\d{4}) \| (0\.\d{4}) \| (imitated|0\.\d{3}) \|$")
    assert len(said) == len(CSV["experts"]) == 5
    for (mean, largest, stored), row in zip(said, CSV["experts"].itertuples(), strict=True):
        assert (float(mean), float(largest)) == pytest.approx((row[2], row[3]), abs=6e-5)
        if not pd.isna(row[4]):
            assert float(stored) == pytest.approx(row[4], abs=6e-4)
    said = rows(r"^\| [^|]+ \| (3\.\d{4}) \| (0\.\d{4})? ?\| (0\.\d{4})? ?\|$")
    assert len(said) == len(CSV["ensemble"]) == 4
    for found, row in zip(said, CSV["ensemble"].itertuples(), strict=True):
        assert [float(x or 0) for x in found] == pytest.approx(list(row[3:6]), abs=6e-5)
    said = rows(r"^\| (\d+) \| (\d+) tokens? \| ([\d.,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$")
    assert len(said) == len(CSV["time"]) == 8
    for found, row in zip(said, CSV["time"].itertuples(), strict=True):
        assert int(found[0]) == row[1]
        assert float(found[2].replace(",", "")) == pytest.approx(row[3], abs=0.06)
        assert [float(x) for x in found[3:]] == pytest.approx(list(row[4:]), abs=6e-3)


def test_the_page_says_what_a_process_grows_by():
    said = rows(r"^\| [^|]+ \| (\d{3}) \|$")
    assert [float(each) for each in said] == pytest.approx(list(CSV["memory"]["MB"]), abs=0.5)


def test_what_is_claimed_was_measured():
    deltas = CSV["experts"].set_index("matrices")
    ours, naive = deltas.loc["load.quantization=int8"], deltas.loc["absmax of the whole tensor"]
    assert ours["largest |Δ|"] <= 1e-3 and naive["mean |Δ| nats"] >= 10 * ours["mean |Δ| nats"]
    assert ours["bytes / fp32"] <= 0.27
    whole = CSV["ensemble"].set_index("loaded")["ensemble, mean nats"]
    assert abs(whole["int8"] - whole["fp32"]) <= 1e-3
    grown = CSV["memory"].set_index("loaded")["MB"]
    assert grown["int8"] < 0.4 * grown["fp32"]


def test_every_way_to_quantise_runs():
    pytest.importorskip("bitsandbytes")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    for change in int8.QUANTISED.values():
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_attention_heads=2, **shape)).eval()
        assert int8.seconds_of(change(model), (2, 8)) > 0
