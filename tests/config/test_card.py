"""Keys of the card: tags of languages by the grammar of BCP 47, sources whose words are known."""

import pytest

from btm.config.card import CardConfig, check_card, is_language, is_web_address
from btm.errors import UserError


@pytest.mark.parametrize(
    "tag", ["en", "pt-BR", "zh-Hant", "es-419", "sl-rozaj-biske-1994", "de-DE-u-co-phonebk", "yue"]
)
def test_a_tag_of_bcp_47(tag):
    assert is_language(tag)


@pytest.mark.parametrize(
    "tag", ["", "e", "english", "en_US", "en-", "en-US-", "en US", "en\n", "é"]
)
def test_no_tag_of_bcp_47(tag):
    assert not is_language(tag)


def test_an_address_is_of_the_web():
    assert is_web_address("https://example.org/a?b=c#d")
    for url in ("ftp://a", "javascript:1", "https://", "https://a b", "http://[", "file:///a"):
        assert not is_web_address(url)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"license": "apache2"}, r"did you mean 'apache-2\.0'"),
        ({"languages": ["english"]}, "no tag of BCP 47"),
        ({"sources": ["x"]}, "wanted"),
        ({"sources": [{"nam": "x"}]}, "did you mean 'name'"),
        ({"sources": [{"url": "https://a"}]}, "needs a name"),
        ({"sources": [{"name": "x", "license": "ccby"}]}, "x: license"),
        ({"sources": [{"name": "x", "url": "ftp://a"}]}, "x: url"),
        ({"sources": [{"name": 1}]}, "wanted a text"),
    ],
)
def test_what_a_card_cannot_hold_is_named(words, said):
    with pytest.raises(UserError, match=said):
        check_card(CardConfig(**words))
    sources = [{"name": "x"}, {"name": "y", "license": "mit", "url": "http://a"}]
    check_card(CardConfig("mit", ["en"], sources, "use", "none"))
