"""The sentence that a comparison ends with."""

import math

import pytest

from btm.report import comparison

SHARDS = [
    comparison.Shard("law", "test", False, 100),
    comparison.Shard("med", "test", False, 100),
    comparison.Shard("news", "test", True, 100),
]


def measured(model, kind, experts, law, med, news):
    nats = {"law": math.log(law), "med": math.log(med), "news": math.log(news)}
    return comparison.Measured(model, kind, experts, 100, 1e9, 1e5, nats)


def compared(*rows, shards=SHARDS):
    found = comparison.rows_of(rows, shards)
    reference = comparison.reference_of(rows)
    values = {"suite": "s", "window": 8, "rule": {}, "elms": {}}
    return comparison.Comparison(
        forest="f",
        shards=shards,
        rows=found,
        reference=reference.model,
        reference_kind=reference.kind,
        **values,
    )


FOREST = measured("ensemble of 2", "ensemble", 2, 10, 20, 30)
DENSE = measured("f-dense", "dense", 1, 20, 20, 60)


def test_it_says_how_the_forest_stands_and_the_best_single_model():
    worse, best = (measured(name, "average", 1, 30, x, 60) for name, x in (("a", 40), ("b", 20)))
    assert comparison.summary(compared(FOREST, worse, best, DENSE)) == (
        "ensemble of 2: 0.750 of f-dense's perplexity on the domains trained on (ahead on 1 of 2) "
        "and 0.500 on novel ones. At the cost of one model, b: 1.250 on the domains trained on "
        "(ahead on 0 of 2) and 1.000 on novel ones."
    )


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (SHARDS[:2], "0.750 of f-dense's perplexity on the domains trained on (ahead on 1 of 2)."),
        (SHARDS[2:], "0.500 of f-dense's perplexity on novel ones."),
    ],
)
def test_of_one_kind_of_domains_it_says_nothing_of_the_other(shards, said):
    assert comparison.summary(compared(FOREST, DENSE, shards=shards)) == f"ensemble of 2: {said}"
