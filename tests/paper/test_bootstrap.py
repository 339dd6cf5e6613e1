"""Rows compared on the same documents: closed forms, and what an interval has to cover."""

import numpy as np
import pandas as pd
import pytest

from btm.paper.bootstrap import Nats, draw, perplexities, ratios

DOCUMENTS = 30


def records(rows, seeds=(0, 1, 2), spread=0.3):
    """Rows as {name: extra nats per token}, each with the same documents, in two domains, one
    novel.
    """
    rng = np.random.default_rng(0)
    found = []
    for domain in ("law", "poems"):
        lengths = rng.integers(50, 500, DOCUMENTS)
        for seed in seeds:
            base = rng.normal(3.0, spread, DOCUMENTS)
            for row, extra in rows.items():
                for number, (length, nats) in enumerate(zip(lengths, base, strict=True)):
                    found.append(
                        {
                            "seed": seed,
                            "row": row,
                            "domain": domain,
                            "novel": domain == "poems",
                            "document": number,
                            "tokens": length,
                            "nats": length * (nats + extra),
                        }
                    )
    return pd.DataFrame(found)


def test_a_row_that_is_better_by_the_same_everywhere_has_a_ratio_without_an_interval():
    found = ratios(Nats.of(records({"dense": 0.0, "forest": -0.1})), "dense", 200)
    forest = found[found["row"] == "forest"]
    assert set(forest["scope"]) == {"in-domain", "novel", "all"}
    for key in ("ratio", "low", "high"):
        np.testing.assert_allclose(forest[key], np.exp(-0.1), rtol=1e-12)
    np.testing.assert_allclose(forest["spread"].astype(float), 0, atol=1e-12)


def test_perplexities_are_those_of_the_definition():
    frame = records({"dense": 0.0}, seeds=(0,))
    found = Nats.of(frame)
    wanted = {
        domain: np.exp(part["nats"].sum() / part["tokens"].sum())
        for domain, part in frame.groupby("domain")
    }
    np.testing.assert_allclose(perplexities(found, "in-domain"), [[wanted["law"]]])
    np.testing.assert_allclose(perplexities(found, "all"), [[np.mean(list(wanted.values()))]])
    once = {domain: np.ones((1, DOCUMENTS)) for domain in found.tokens}
    np.testing.assert_allclose(perplexities(found, "all", once)[0], perplexities(found, "all"))


def test_a_draw_has_as_many_documents_as_there_are():
    drawn = draw(Nats.of(records({"dense": 0.0})), 50)
    for counts in drawn.values():
        assert counts.shape == (50, DOCUMENTS)
        assert set(counts.sum(axis=1)) == {DOCUMENTS}


def test_the_interval_of_independent_rows_covers_the_truth():
    frame = records({"dense": 0.0, "other": 0.0})
    noise = np.random.default_rng(1).normal(0, 0.1, len(frame))
    frame["nats"] += frame["tokens"] * noise * (frame["row"] == "other")
    found = ratios(Nats.of(frame), "dense", 500)
    row = found[(found["row"] == "other") & (found["scope"] == "all")].iloc[0]
    assert row["low"] < row["ratio"] < row["high"]
    assert row["low"] < 1.0 < row["high"]


def test_a_row_with_fewer_seeds_is_compared_on_those():
    frame = records({"dense": 0.0, "big": -0.2})
    frame = frame[(frame["row"] == "dense") | (frame["seed"] == 1)]
    found = ratios(Nats.of(frame), "dense", 100).set_index(["row", "scope"])
    assert found.loc[("big", "all"), "seeds"] == 1
    assert found.loc[("big", "all"), "ratio"] == pytest.approx(np.exp(-0.2))
    assert found.loc[("dense", "all"), "seeds"] == 3


def test_rows_measured_on_other_documents_are_refused():
    frame = records({"dense": 0.0, "forest": 0.0})
    frame.loc[frame.index[-1], "tokens"] += 1
    with pytest.raises(ValueError, match="different documents"):
        Nats.of(frame)
