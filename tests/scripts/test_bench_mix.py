"""The bench of `btm mix`: docs/one-model.md says what its CSV does."""

import re

import pandas as pd
import pytest
from folders import ROOT

from bench import mix

TABLE = re.findall(
    r"^\| (\S+) \| (trained on|novel) \| (\S+) \| (\S+) \| (\d) of (\d) \| (\d) of \d \|$",
    (ROOT / "docs/one-model.md").read_text(),
    re.MULTILINE,
)


def test_the_page_says_what_was_measured():
    found = mix.agreement(pd.read_csv(ROOT / "docs/results/mix/demo.csv"))
    assert len(TABLE) == 4 and len(found) == 8
    by = {(row["scale"], row["targets"]): row for row in found}
    for said in TABLE:
        of = by[float(said[0]), said[1]]
        assert of["Spearman, mean"] == pytest.approx(float(said[2]), abs=6e-4)
        assert of["least"] == pytest.approx(float(said[3]), abs=6e-4)
        assert (of["first is best"], of["number"], of["within 0.01 nats"]) == tuple(
            map(int, said[4:])
        )


def test_every_mixture_is_sixteenths():
    assert all(sum(mixture.values()) == mix.PARTS for mixture in mix.MIXTURES)
