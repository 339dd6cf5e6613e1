"""The smallest reproduction, whole: only orderings are asserted, by margins wider than the spread
over seeds.
"""

import json

import numpy as np
import pandas as pd
import pytest
from folders import uncovered_children

from btm import paper
from btm.cli.compose import compose
from btm.paper import losses, one_model
from btm.paper.studies import studies

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    place = tmp_path_factory.mktemp("paper")
    words = [f"paper.out={place / 'out'}", f"data.out={place / 'data'}"]
    # Of the suite's sixteen domains four that are trained on, and two that are not.
    words += ["eval.domains=[bible,code_python,spanish,wordnet,novels,code_go]"]
    return compose(
        ["size=smoke", "paper.steps=720", "paper.baselines=[dense,random_split]", *words]
    )


@pytest.fixture(scope="module")
def report(config):
    with uncovered_children():  # which take twice as long when they are covered
        return paper.reproduce(config)


@pytest.fixture(scope="module")
def ratio(report):
    table = pd.read_csv(report / "ratios.csv").set_index(["row", "scope"])["ratio"]
    return lambda row, scope: table[(row, scope)]


@pytest.mark.traced
def test_orderings_of_the_paper(ratio):
    """At this size a dense LM still gains most by more text, so the forest is compared with what it
    is made of.
    """
    paper_like = ratio(losses.PAPER, "in-domain")
    assert paper_like < ratio("seed", "in-domain") - 0.2
    assert paper_like < ratio("random_split: cached prior", "in-domain") - 0.1
    assert ratio("average: posterior", "in-domain") < ratio("average: uniform", "in-domain") - 0.2
    for scope in ("in-domain", "novel"):
        assert ratio(losses.GATED, scope) < ratio(losses.PAPER, scope) - 0.03


def test_every_row_is_on_every_document(report):
    documents = pd.read_csv(report / "documents.csv.gz")
    counts = documents.groupby(["row", "seed"])["nats"].count()
    assert counts.nunique() == 1
    assert np.isfinite(documents["nats"]).all()
    assert documents["novel"].any() and not documents["novel"].all()


def test_a_row_is_what_the_evaluation_of_its_forest_says(config, report):
    """Two roads to the same number: eval_forest sums tokens, the tables sum documents."""
    documents = pd.read_csv(report / "documents.csv.gz")
    rows = documents[(documents["row"] == losses.PAPER) & (documents["seed"] == 0)]
    by_domain = rows.groupby("domain")[["nats", "tokens"]].sum()
    result = json.loads(
        (paper.studies.root(config) / "forests/forest-0/evals/all.json").read_bytes()
    )
    for domain, found in by_domain.iterrows():
        wanted = result["shards"][f"{domain}/test"]["ensemble"]["nats_per_token"]
        assert found["nats"] / found["tokens"] == pytest.approx(wanted, rel=1e-6)


def test_rows_that_remember_more_stand_apart(report, ratio):
    documents = pd.read_csv(report / "documents.csv.gz")
    kinds = documents.drop_duplicates("row").set_index("row")["memory"]
    assert kinds[losses.GATED] == kinds[losses.DENSE] == losses.WINDOW
    for row in (losses.DENSE, losses.GATED):
        for kind, suffix in ((losses.WINDOW, ""), (losses.DOCUMENT, losses.CARRIED)):
            assert kinds[f"{row}{losses.CACHE}{suffix}"] == f"{kind}{losses.CACHE}"
            assert ratio(f"{row}{losses.CACHE}{suffix}", "novel") < ratio(row, "novel")
    remembered = pd.read_csv(report / "memory.csv")
    assert set(remembered["memory"]) == {losses.WINDOW, losses.DOCUMENT}


def test_one_seed_has_no_interval(report):
    assert pd.read_csv(report / "ratios.csv")[["low", "high"]].isna().to_numpy().all()


def test_the_report_says_what_was_done(report):
    text = (report / "report.md").read_text()
    for wanted in ("commit", "machine", "random_split", "Seed fraction", "ratios.png", "[—]"):
        assert wanted in text
    for picture in ("ratios.png", "domains.png", "seed-fraction.png"):
        assert (report / picture).read_bytes().startswith(b"\x89PNG")


def test_what_is_made_of_the_forest_is_a_row_with_its_cost(report):
    documents = pd.read_csv(report / "documents.csv.gz").drop_duplicates("row").set_index("row")
    assert set(one_model.names()) <= set(documents.index)
    assert documents.loc["student: gated", "models"] == 1
    assert 1 < documents.loc["MoE: finetuned", "models"] < 2
    lines = (report / "report.md").read_text().splitlines()
    cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines if line.count(" | ") > 8}
    forest, student, moe = (
        [float(cell) for cell in cells[row][3:5]]
        for row in (losses.GATED, "student: gated", "MoE: finetuned")
    )
    assert student[0] > forest[0] and student[1] > moe[1] > forest[1]


def test_the_same_command_again_grows_nothing(config, report):
    before = {path: path.stat().st_mtime_ns for path in report.parent.glob("forests/*/elms/*/*")}
    paper.grow_missing(config)
    assert before == {
        path: path.stat().st_mtime_ns for path in report.parent.glob("forests/*/elms/*/*")
    }


def test_as_many_tokens_stand_in_the_cards_as_were_planned(config, report):
    from btm.forest import Forest

    per_step = config.trainer.batch_size * config.trainer.seq_len
    for study in studies(
        config, [e for e in Forest(report.parent / "forests/forest-0").names() if e != "seed"]
    ):
        if study.kind in ("forest", "dense", "fraction"):
            trained = sum(elm.card.tokens for elm in Forest(study.forest).elms())
            assert trained == config.paper.steps * per_step, study.name
