"""Cards: what is read is checked, and README.md is a model card of the Hugging Face Hub, whatever
its texts hold.
"""

import dataclasses
import json
import math

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from btm.cli import compose
from btm.errors import UserError
from btm.forest.card import Card, Measured, Parent, Source, Spent
from btm.forest.model_card import readme

EVIL = (
    "---\nlicense: mit\n--- \"quoted\" 'single' : # [x](javascript:1) `code` | <b>"
    " \x00\x7f\x85\u2028 é 😀 \\ & * _ {a: b} %"
)


WORTH = Measured(2.0, {"seed": 3.0}, 1_000, 64)


def full(**changes):
    card = Card(
        name="law",
        domains=["contracts"],
        sha256="a" * 64,
        tokenizer_sha256="b" * 64,
        parents={"seed": Parent(0.75, 3.0, "c" * 64), "med": Parent(0.25, 1.0, "d" * 64)},
        branch_method="posterior",
        estimator="cached prior on contracts/valid (0123456789abcdef)",
        steps=100,
        tokens=12_345,
        flops=1e12,
        ancestors=[Spent("seed", "c" * 64, 7, 1.0), Spent("old", "e" * 64, 8, 1.0)],
        total_tokens=99_999,
        total_flops=2e12,
        parameters=1_000_000,
        data={"contracts": "f" * 64},
        valid_nats=2.5,
        parent_valid_nats={"seed": 3.0},
        license="cc-by-4.0",
        created="2026-11-25T12:00:00+00:00",
        versions={"torch": "2.13.0"},
    )
    return dataclasses.replace(card, **changes)


def results(data):
    """The evaluation results of a card's metadata, through the Hub's own reader."""
    return model_index_to_eval_results(data.to_dict()["model-index"])[1]


def test_the_metadata_passes_the_hubs_own_checks():
    text = readme(full())
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "text-generation",
        "cc-by-4.0",
    )
    assert data.model_name == "law"
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_split, result.metric_type) == (
        "text-generation",
        "valid",
        "perplexity",
    )
    assert result.metric_value == pytest.approx(math.exp(2.5), rel=1e-5)
    assert ModelCardData(**data.to_dict()).to_dict() == data.to_dict()
    (again,) = results(data)
    assert again.is_equal_except_value(result)
    assert again.metric_value == result.metric_value
    result.__post_init__()  # refuses a verification without a source


def test_it_says_what_one_would_ask():
    text = readme(full())
    for said in (
        "| seed | 0.7500 |",
        "f" * 64,
        "12,345 tokens",
        "99,999 tokens",
        "12.18",
        "from_pretrained",
        "old",
    ):
        assert said in text
    assert 'Forest("path/to/forest")["law"]' in text
    assert "cc-by-4.0" in text.partition("## Licence")[2]


def test_what_is_not_known_is_not_invented():
    text = readme(full(license="", valid_nats=None, parents={}, data={}, ancestors=[], notes=[]))
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.license is None
    assert data.eval_results is None
    assert data.base_model is None
    assert "None was stated" in text
    assert "A root" in text


@pytest.mark.parametrize("nats", [0.0, 1e-9, 20.0, 600.0, 1e6])
def test_a_perplexity_is_a_number_however_bad(nats):
    (result,) = ModelCard(
        readme(full(valid_nats=nats)), ignore_metadata_errors=False
    ).data.eval_results
    assert isinstance(result.metric_value, float)


def test_no_text_breaks_out_of_metadata_or_table():
    card = full(
        name=EVIL,
        domains=[EVIL],
        notes=[EVIL],
        source=EVIL,
        license=EVIL,
        estimator=EVIL,
        recipe={EVIL: EVIL},
        branch_method=EVIL,
        created=EVIL,
        parents={EVIL: Parent(1.0, 1.0, EVIL)},
        data={EVIL: EVIL},
        versions={EVIL: EVIL},
        ancestor_licenses={EVIL: EVIL},
        languages=[EVIL],
        use=EVIL,
        restrictions=[EVIL],
    )
    text = readme(card)
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert set(data.to_dict()) == {
        "library_name",
        "pipeline_tag",
        "license",
        "license_name",
        "tags",
        "model-index",
    }
    assert data.license == "other"
    assert text.split("\n").count("---") == 2
    assert "](javascript" not in text.rpartition("---\n")[2].replace("\\]", "")
    tables = [line for line in text.split("\n") if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} <= {3, 4}


def test_it_tells_languages_sources_use_and_restrictions(tmp_path):
    card = full(
        languages=["en", "pt-BR"],
        sources=[Source("Gaceta | Oficial", "cc-by-4.0", "https://example.org/a_b")],
        use="answers about *law*",
        restrictions=["no advice", EVIL],
        ancestor_licenses={"seed": "gemma"},
    )
    (tmp_path / "card.json").write_text(json.dumps(card.to_json()))
    assert Card.read(tmp_path / "card.json") == card
    text = readme(card)
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.language == ["en", "pt-BR"]
    for said in (
        r"| Gaceta \| Oficial | cc-by-4.0 | https://example.org/a\_b |",
        "## Intended use\n\nanswers about \\*law\\*\n",
        "## Restrictions\n\n- no advice\n- ",
        "| seed | gemma |",
    ):
        assert said in text
    assert "## Intended use" not in readme(full())


def test_an_average_says_that_it_is_one(forest):
    text = (forest.root / "averages/uniform/README.md").read_text()
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert {"merge", "model-average"} <= set(data.tags)
    assert (
        "merge" not in ModelCard(forest["bible"].path.joinpath("README.md").read_text()).data.tags
    )


def test_what_an_average_was_worth_is_told_domain_by_domain():
    other = Measured(4.0, {"seed": 3.5}, 500, 64)
    card = full(measured={"law": WORTH, EVIL: other}, valid_nats=3.0)
    text = readme(card, "average")
    assert "| law | 1,000 | 7.389 | 2.0000 | 20.09 | 3.0000 |" in text
    assert "| mean nats |  | 20.09 | 3.0000 | 25.79 | 3.2500 |" in text
    assert "no better than" not in text
    data = ModelCard(text, ignore_metadata_errors=False).data
    found = {result.dataset_type: result.metric_value for result in data.eval_results}
    assert found["law"] == pytest.approx(math.exp(2.0), rel=1e-4)
    assert len(found) == 2
    assert "no better than seed" in readme(dataclasses.replace(card, valid_nats=3.25), "average")
    assert "`btm eval` measures it" in readme(full(measured={}, valid_nats=None), "average")


def test_every_card_of_a_real_forest_is_valid(forest):
    for elm in forest.elms():
        data = ModelCard((elm.path / "README.md").read_text(), ignore_metadata_errors=False).data
        measured = [] if elm.card.valid_nats is None else [math.exp(elm.card.valid_nats)]
        assert [r.metric_value for r in data.eval_results or []] == pytest.approx(
            measured, rel=1e-4
        )


def test_the_licence_is_one_of_the_hubs(workspace):
    assert compose.compose([*workspace, "card.license=apache-2.0"]).card.license == "apache-2.0"
    with pytest.raises(UserError, match=r"did you mean 'apache-2\.0'"):
        compose.compose([*workspace, "card.license=apache2"])


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": "12"},
        {"tokens": True},
        {"tokens": 1.5},
        {"name": None},
        {"domains": "contracts"},
        {"domains": [1]},
        {"flops": math.nan},
        {"valid_nats": "low"},
        {"forced": 1},
        {"data": {"contracts": 1}},
        {"parents": {"seed": {"weight": "1", "raw": 1, "sha256": ""}}},
        {"parents": [1]},
        {"parents": {"seed": {"weight": 1}}},
        {"ancestors": [{"name": 1, "sha256": "", "tokens": 1, "flops": 1}]},
        {"ancestors": {"name": 1}},
        {"measured": {"law": {"nats": 1.0}}},
        {"measured": {"law": {"nats": "1", "seeds": {}, "tokens": 1, "window": 1}}},
        {"measured": {"law": WORTH.__dict__, "med": WORTH.__dict__ | {"seeds": {}}}},
        {"sources": [{"name": 1}]},
        {"sources": [{"nam": "x"}]},
        {"languages": "en"},
        {"schema": "1"},
        {"schema": 2},
    ],
)
def test_a_card_of_other_types_is_refused_with_its_path(tmp_path, changes):
    file = tmp_path / "card.json"
    file.write_text(json.dumps(full().to_json() | changes))
    with pytest.raises(UserError, match=r"card\.json"):
        Card.read(file)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "1", "{", '{"name": "x"}', "[" * 100_000, b"\xff".decode("latin1")]
)
def test_what_is_no_card_is_refused(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(UserError, match=r"card\.json"):
        Card.read(tmp_path / "card.json")


def test_whole_numbers_may_stand_for_reals_and_new_fields_are_passed_over(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps(full().to_json() | {"flops": 7, "later": 1}))
    assert Card.read(tmp_path / "card.json").flops == 7
