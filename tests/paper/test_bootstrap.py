"""Rows compared on the same documents: closed forms, and what an interval has to cover."""

import numpy as np
import pandas as pd
import pytest

from btm.paper.bootstrap import Nats, draw, of_domain, perplexities, ratios, t_quantile

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
    once = np.ones((1, DOCUMENTS))
    np.testing.assert_allclose(of_domain(found, "law", once)[0], of_domain(found, "law"))


def test_a_draw_has_one_document_less_than_there_are():
    drawn = draw(Nats.of(records({"dense": 0.0})), 50)
    for counts in drawn.values():
        assert counts.shape == (50, DOCUMENTS)
        assert set(counts.sum(axis=1)) == {DOCUMENTS - 1}
    assert (drawn["law"] != drawn["poems"]).any()


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


def noisy(rows, seeds=(0, 1, 2)):
    """`records` whose rows differ by seed and by document."""
    frame = records(rows, seeds)
    rng = np.random.default_rng(7)
    for _, part in frame.groupby(["row", "seed"]):
        noise = rng.normal(0, 0.01) + rng.normal(0, 0.1, len(part))
        frame.loc[part.index, "nats"] += part["tokens"] * noise
    return frame


def test_an_interval_does_not_depend_on_which_other_rows_there_are():
    frame = noisy({"dense": 0.0, "forest": -0.1, "demix": -0.05})
    every, fewer = (
        ratios(Nats.of(part), "dense", 100).set_index(["row", "scope"])
        for part in (frame, frame[frame["row"] != "forest"])
    )
    pd.testing.assert_frame_equal(every.loc[fewer.index], fewer, rtol=1e-12)
    assert (fewer.loc["demix", "low"] < fewer.loc["demix", "high"]).all()


def test_one_seed_has_no_interval():
    found = ratios(Nats.of(noisy({"dense": 0.0, "forest": -0.1}, seeds=(0,))), "dense", 50)
    assert found[["low", "high", "spread"]].isna().to_numpy().all()
    assert found["ratio"].notna().all()


def test_an_interval_is_no_narrower_than_that_of_the_seeds():
    stats = pytest.importorskip("scipy.stats")
    frame = noisy({"dense": 0.0, "forest": -0.1})
    found = ratios(Nats.of(frame), "dense", 200).set_index(["row", "scope"])
    for scope in ("in-domain", "novel", "all"):
        ratio_K = np.divide(*perplexities(Nats.of(frame), scope)[::-1])
        low, high = stats.t.interval(
            0.95, 2, np.log(ratio_K).mean(), np.log(ratio_K).std(ddof=1) / np.sqrt(3)
        )
        row = found.loc[("forest", scope)]
        assert row["low"] <= np.exp(low) * (1 + 1e-6)
        assert row["high"] >= np.exp(high) * (1 - 1e-6)


@pytest.mark.parametrize("freedom", [1, 1.7, 2, 4, 11.3, 100, 5000])
def test_quantiles_are_those_of_student(freedom):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-4)


def simulated(rng, of_seed, of_document, domains=4, documents=10, seeds=3):
    """Two rows whose true ratio is 1: what differs is the seed's and the documents' own."""
    nats, tokens = {}, {}
    shift_K = rng.normal(0, of_seed, seeds)
    for number in range(domains):
        lengths = rng.integers(200, 2000, documents).astype(float)
        level = rng.normal(4.0, 0.3, documents)
        own = shift_K[:, None] + rng.normal(0, of_document, documents)
        own = own + rng.normal(0, of_document / 4, (seeds, documents))
        dense = np.broadcast_to(level, own.shape)
        nats[f"d{number}"] = np.stack([dense, dense + own]) * lengths
        tokens[f"d{number}"] = lengths
    novel = dict.fromkeys(nats, False)
    return Nats(["dense", "forest"], list(range(seeds)), novel, nats, tokens)


def percentiles(found, rng, resamples=200):
    """The percentile bootstrap over documents and seeds, as if there were many of both."""
    total = 0.0
    for domain, tokens in found.tokens.items():
        D = len(tokens)
        counts = rng.multinomial(D, np.full(D, 1 / D), resamples).astype(float)
        total = total + of_domain(found, domain, counts)
    log_ratio_BK = np.log(total[:, 1] / total[:, 0])
    seeds_BK = rng.integers(log_ratio_BK.shape[1], size=log_ratio_BK.shape)
    means_B = np.take_along_axis(log_ratio_BK, seeds_BK, axis=1).mean(axis=1)
    return np.quantile(means_B, [0.025, 0.975])


@pytest.mark.parametrize(
    ("of_seed", "of_document", "drawing"),
    [(0.02, 0.0, 0.8), (0.02, 0.05, 0.9), (0.0, 0.1, 1.0)],
)
def test_an_interval_covers_the_truth_as_often_as_it_says(of_seed, of_document, drawing):
    """At three seeds and ten documents a domain; drawing from both covers it less often,
    the more so the more of the spread is that of seeds.
    """
    rng = np.random.default_rng(11)
    ours, drawn = [], []
    for _ in range(300):
        found = simulated(rng, of_seed, of_document)
        row = ratios(found, "dense", 100).iloc[1]
        ours.append(row["low"] <= 1 <= row["high"])
        low, high = percentiles(found, rng)
        drawn.append(low <= 0 <= high)
    assert np.mean(ours) >= 0.93
    assert np.mean(drawn) < drawing
