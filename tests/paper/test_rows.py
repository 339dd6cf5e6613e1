"""The rows of the tables: what each remembers, what it is fitted on, and what is said of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.forest import Forest
from btm.paper import losses, memory, report
from btm.paper.bootstrap import Nats, ratios
from btm.paper.losses import CACHE, CARRIED, GATED, PAPER, Grown, mixed, rules
from btm.paper.studies import FOREST, Study
from btm.steps import score_cache

NOVEL = "novels"
ONCE = f"{GATED}, uniform prior, fitted once"


def rows_of(ensemble=None, experts=8):
    return rules(replace(Config(), ensemble=ensemble or EnsembleConfig()), experts)


def named(ensemble=None, experts=8):
    return {row.name: rule for row, rule in rows_of(ensemble, experts).items()}


def study(config, kind=FOREST):
    return Study(kind, kind, 0, config)


def test_every_row_is_at_equal_context_but_those_that_say_what_they_remember():
    wanted = EnsembleConfig(carry="document", cache="ngram")  # whatever the settings say
    for row, rule in rows_of(wanted).items():
        assert rule.carry == ("document" if CARRIED in row.name else "window"), row.name
        assert rule.cache == ("ngram" if CACHE in row.name else "none"), row.name
        carried = losses.SPLIT if rule.prior == "updating" else rule.carry
        assert row.memory == carried + (CACHE if rule.cache == "ngram" else "")
    assert {row.memory for row in rows_of(wanted)} == set(report._MEMORIES)


def test_the_row_with_a_uniform_prior_reads_nothing_of_the_domain_it_is_measured_on(copy):
    config = copy()
    grown = Grown(study(config))
    before = {name: mixed(grown, named()[name], [NOVEL])[NOVEL] for name in (ONCE, GATED)}
    valid = grown.suite.shard(NOVEL, "valid")
    scores = score_cache.scores_of(config, grown.forest)
    for number, elm in enumerate(grown.experts):
        file = scores.path(valid, elm.card.sha256)
        worse = np.load(file) - np.float32(number)
        file.unlink()
        np.save(file, worse)
    after = {
        name: mixed(Grown(study(config)), named()[name], [NOVEL])[NOVEL] for name in (ONCE, GATED)
    }
    np.testing.assert_array_equal(before[ONCE], after[ONCE])
    assert np.abs(before[GATED] - after[GATED]).max() > 1e-3


def test_memory_reaches_to_the_end_of_a_document_and_no_further(copy):
    """What follows the first document is mixed as if the text began there."""
    config = copy("score.max_tokens=0")
    grown = Grown(study(config))
    elm = grown.experts[0]
    shards = [grown.suite.shard(NOVEL, split) for split in ("valid", "test")]
    score_cache.score_missing(config, grown.forest, elm.path, elm.card.sha256, shards, _quiet())
    test = shards[1]
    logp_N = losses.alone(grown, NOVEL, elm)
    weights = (0.5, 0.2, 0.2, 0.1)
    whole = losses.cache.mix(losses._read(grown, NOVEL, "test", logp_N, "document"), weights)
    end = int(test.documents[0, 0])
    text = grown.text(test)
    alone = losses.cache.Read(logp_N[end:], text.ids[end:], text.begins[end:])
    np.testing.assert_allclose(whole[end:], losses.cache.mix(alone, weights), rtol=1e-12)
    by_window = losses._read(grown, NOVEL, "test", logp_N, "window")
    assert by_window.resets.sum() == -(-len(logp_N) // config.window)


def _quiet():
    from btm.report import quiet

    return quiet


def test_a_report_says_what_the_cards_say_and_not_the_settings(copy):
    config = copy("trainer.steps=999", "seed.steps=777", "trainer.lr=0.5")
    facts = report.trained([study(config)])
    cards = Forest(config.forest_root).experts()
    text = " ".join(facts.values())
    assert f"{cards[0].card.parameters:,} parameters" in text
    assert "12 steps" in text and "24 steps" in text
    for wrong in ("999", "777", "0.5"):
        assert wrong not in text
    assert f"{cards[0].card.lr:g}" in text


def test_a_report_names_the_studies_that_it_is_of(copy):
    config = copy()
    studies = [Study(f"{kind}-{n}", kind, n, config) for kind in (FOREST, "dense") for n in (0, 1)]
    studies.append(Study("fraction-0", "fraction", 0, config, value="0.25"))
    assert report.grown(studies) == (
        "forest (seed 0, seed 1), dense (seed 0, seed 1), fraction (0.25)"
    )


def records():
    rng = np.random.default_rng(0)
    gain = {
        "dense": 0.0,
        f"dense{CACHE}": -0.3,
        f"dense{CACHE}{CARRIED}": -0.4,
        GATED: -0.1,
        f"{GATED}{CACHE}": -0.35,
        f"{GATED}{CARRIED}": -0.2,
        f"{GATED}{CACHE}{CARRIED}": -0.42,
    }
    for row, nats in gain.items():
        kind = ("document" if CARRIED in row else "window") + (CACHE if CACHE in row else "")
        for seed in (0, 1, 2):
            for domain, novel in (("law", False), ("poems", True)):
                for document in range(6):
                    loss = 100 * (3 + document / 10 + nats + rng.normal(0, 0.001))
                    yield {
                        "seed": seed, "row": row, "group": "posterior", "memory": kind,
                        "models": 1, "domain": domain, "novel": novel, "document": document,
                        "tokens": 100, "bytes": 300, "nats": loss,
                    }  # fmt: skip


def test_what_is_memory_is_divided_by_a_dense_model_of_the_same_memory():
    frame = pd.DataFrame(list(records()))
    found = memory.compare(Nats.of(frame), 50).set_index(["row", "over", "scope"])["ratio"]
    for scope in ("in-domain", "novel"):
        for row, over, nats in (
            (GATED, "dense", -0.1),
            (f"{GATED}{CACHE}", f"dense{CACHE}", -0.05),
            (f"{GATED}{CARRIED}", f"dense{CACHE}{CARRIED}", 0.2),
            (f"{GATED}{CACHE}{CARRIED}", f"dense{CACHE}{CARRIED}", -0.02),
        ):
            assert found[(row, over, scope)] == pytest.approx(np.exp(nats), abs=2e-3)
    assert (f"{GATED}{CARRIED}", f"dense{CACHE}", "novel") not in found.index
    table = report.memory_table(memory.compare(Nats.of(frame), 50)).splitlines()
    assert len(table) == 2 + 7
    assert len({line.count("|") for line in table}) == 1


def test_rows_of_another_memory_stand_in_another_table():
    frame = pd.DataFrame(list(records()))
    compared = ratios(Nats.of(frame), "dense", 50)
    cost = {"tokens": 10, "flops": 20.0}
    text = report.main_tables(frame, compared, {"forest": cost, "dense": cost})
    first, *others = text.split("### ")[1:]
    assert "Equal context" in first
    assert GATED in first and CACHE not in first and CARRIED not in first
    assert len(others) == 3
    assert (
        report.main_tables(frame, compared, {"forest": cost, "dense": cost}).count("dense |") == 1
    )


def test_an_aim_is_at_equal_context():
    assert {row for row, *_ in report.GOALS} & set(named()) == {GATED}
    assert named()[GATED].carry == "window"
    assert named()[PAPER] == replace(named()[PAPER], carry="window", cache="none")


def test_a_row_that_commits_early_is_the_rule_that_does_and_counts_the_reading():
    rows = {row.name: (row, rule) for row, rule in rows_of(EnsembleConfig(commit=99)).items()}
    row, rule = rows[f"{GATED}, top-2 after 32 tokens"]
    assert (rule.commit, rule.top_k, rule.carry) == (32, 2, "window")
    assert Config().window == 256
    assert row.models == (8 * 32 + 2 * (256 - 32)) / 256
    assert all(rule.commit == 0 for row, rule in rows.values() if row.group != "commit")
    assert not any(row.group == "commit" for row in rows_of(experts=1))


def test_rows_stand_by_what_they_cost_then_by_what_they_reach():
    models = {
        "forest: gated": 8.0,
        "dense": 1.0,
        "seed": 1.0,
        f"{GATED}, top-1 after 4 tokens": 1.2,
    }
    ratio = {"forest: gated": 0.8, "dense": 1.0, "seed": 1.3, f"{GATED}, top-1 after 4 tokens": 0.9}
    documents = pd.DataFrame({"row": models.keys(), "memory": "window", "models": models.values()})
    compared = pd.DataFrame(
        {"row": row, "scope": scope, "perplexity": 1, "ratio": value, "low": 0, "high": 2}
        for row, value in ratio.items()
        for scope in report.SCOPES
    )
    nothing = {kind: {"tokens": 0, "flops": 0.0} for kind in ("seed", FOREST, "dense")}
    table = report.main_table(documents, compared, nothing).splitlines()[2:]
    placed = [line.split(" | ")[0].removeprefix("| ") for line in table]
    assert placed == ["seed", "dense", f"{GATED}, top-1 after 4 tokens", "forest: gated"]
    assert [line.split(" | ")[2] for line in table] == ["1", "1", "1.2", "8"]
