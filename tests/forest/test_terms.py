"""Terms: descendants keep them, a sender's are checked, and licences bind what goes out."""

import dataclasses

import pytest

from btm.config.card import CardConfig
from btm.config.choices import LICENSES
from btm.forest.card import Card, Parent, Source
from btm.forest.terms import Terms, refused

WIKI = Source("Wikipedia", "cc-by-sa-4.0", "https://www.wikipedia.org/")


def card(**changes):
    return dataclasses.replace(Card("law", ["law"], "a" * 64, "b" * 64), **changes)


def test_a_descendant_keeps_languages_sources_restrictions_and_licences():
    law = card(license="mit", languages=["en"], sources=[WIKI], use="chat", restrictions=["none"])
    med = card(name="med", license="gemma", languages=["pt-BR", "en"], sources=[WIKI])
    old = dataclasses.replace(med, name="old", ancestor_licenses={"older": "llama2"})
    kept = Terms.inherited([law, med, old])
    assert (kept.license, kept.use) == ("", "")
    assert (kept.languages, kept.sources) == (["en", "pt-BR"], [WIKI])
    assert kept.restrictions == ["none"]
    assert kept.ancestor_licenses == {
        "law": "mit",
        "med": "gemma",
        "old": "gemma",
        "older": "llama2",
    }


def test_a_senders_terms_are_those_that_a_key_would_take():
    theirs = Terms(
        "evil\n", ["en", "en_US"], [Source("a", "x", "javascript:1"), Source(" "), WIKI], "u", ["r"]
    )
    theirs = dataclasses.replace(theirs, ancestor_licenses={"a": "mit", "b": "x"})
    assert theirs.checked() == Terms("", ["en"], [Source("a"), WIKI], "u", ["r"], {"a": "mit"})


def test_languages_of_its_own_text_are_told_from_those_of_its_ancestors():
    sent = card(languages=["en", "zu", "x y"], own_languages=["zu", "x y"])
    assert Terms.inherited([sent]).own_languages is None
    received = Terms.of_config(CardConfig(languages=["xh"])).with_(Terms.of_card(sent).checked())
    assert (received.languages, received.own_languages) == (["xh", "en", "zu"], ["xh", "zu"])
    assert received.on(card()).own_languages == ["xh", "zu"]
    older = Terms.of_config(CardConfig()).with_(Terms.of_card(card(languages=["en"])))
    assert older.own_languages is None  # which of them are its own nobody knows
    trained = Terms.of_card(card(own_languages=[])).with_(Terms.of_config(CardConfig()))
    assert trained.own_languages == []


TRAINED = {"steps": 1, "parents": {"seed": Parent(1.0, 1.0, "c" * 64)}}


@pytest.mark.parametrize(
    ("made", "stated", "said"),
    [
        ({"license": "cc-by-nd-4.0"}, "", ""),  # unchanged
        ({"sources": [Source("book", "cc-by-nc-nd-4.0")]}, "", ""),
        (TRAINED | {"sources": [Source("book", "cc-by-nc-nd-4.0")]}, "", "source 'book' forbids"),
        (TRAINED | {"ancestor_licenses": {"seed": "cc-by-nd-4.0"}}, "", "ancestor 'seed' forbids"),
        (TRAINED | {"ancestor_licenses": {"seed": "cc-by-4.0"}}, "mit", ""),
        (TRAINED | {"ancestor_licenses": {"seed": "gemma"}}, "", ""),
        (TRAINED | {"ancestor_licenses": {"seed": "gemma"}}, "gemma", ""),
        (TRAINED | {"ancestor_licenses": {"seed": "gemma"}}, "mit", "give card.license=gemma"),
        (TRAINED | {"ancestor_licenses": {"seed": "gpl-3.0"}, "license": "mit"}, "", "share-alike"),
        ({"license": "bigscience-bloom-rail-1.0"}, "mit", "of the model itself"),
        ({"license": "bigscience-bloom-rail-1.0"}, "", ""),
        (TRAINED | {"sources": [WIKI]}, "mit", ""),  # whether it binds a model is not settled
    ],
)
def test_what_a_licence_forbids(made, stated, said):
    found = refused(card(**made), stated)
    assert said in found if said else found == ""


def test_every_pattern_is_of_an_identifier_of_the_hub():
    bound = {each for each in LICENSES if refused(card(license=each), "isc")}
    assert {"openrail", "openrail++", "bigcode-openrail-m", "bigscience-bloom-rail-1.0"} <= bound
    assert {"llama2", "llama3.3", "gemma", "cc-by-nc-sa-4.0", "agpl-3.0", "lgpl"} <= bound
    assert not bound & {"mit", "apache-2.0", "cc-by-4.0", "cc0-1.0", "mpl-2.0", "isc"}
