"""Settings of a model's card: what btm cannot know of its licence, data and use."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from btm.config.checks import check_choice, require
from btm.config.choices import LICENSES
from btm.config.keys import key
from btm.errors import UserError, nearest

# A tag of BCP 47 (RFC 5646, section 2.1). Languages of 4 to 8 letters are reserved there, and
# grandfathered tags are replaced by others.
_LANGUAGE = re.compile(
    r"[a-z]{2,3}(-[a-z]{3}){0,3}"
    r"(-[a-z]{4})?"  # script
    r"(-([a-z]{2}|\d{3}))?"  # region
    r"(-([a-z\d]{5,8}|\d[a-z\d]{3}))*"  # variants
    r"(-[a-wy-z\d](-[a-z\d]{2,8})+)*"  # extensions
    r"(-x(-[a-z\d]{1,8})+)?",  # private use
    re.IGNORECASE | re.ASCII,
)
_OF_SOURCE = ("name", "license", "url")


@dataclass
class CardConfig:
    """Statements for the card of a new ELM, or of an exported model, that btm cannot know."""

    license: str | None = key(
        None,
        "licence of new ELMs, and of what is exported; an identifier of the Hugging Face Hub such "
        "as apache-2.0; null: none is stated, or the model's own",
    )
    languages: list[str] = key(
        [], "languages of its text, beside its parents': tags of BCP 47, as [en,pt-BR,zh-Hant]"
    )
    sources: list[Any] = key(
        [], "where its text is from, beside its parents': [{name: …, license: …, url: …}, …]"
    )
    use: str = key("", "intended use, in words; empty: none is stated, or the model's own")
    restrictions: str = key(
        "", "restrictions of its use, in words, beside its parents'; empty: none is stated"
    )


def check_card(card: CardConfig) -> None:
    """Raise `UserError` naming the first key of `card` whose value a card cannot hold."""
    if card.license is not None:
        check_choice(card.license, "card.license", LICENSES)
    require(isinstance(card.languages, list), "card.languages", card.languages, "wanted [en, …]")
    for tag in card.languages:
        require(
            isinstance(tag, str) and is_language(tag),
            "card.languages",
            repr(tag),
            "no tag of BCP 47; wanted such as en, pt-BR or zh-Hant",
        )
    form = "wanted [{name: …, license: …, url: …}, …]"
    require(isinstance(card.sources, list), "card.sources", card.sources, form)
    for source in card.sources:
        require(isinstance(source, dict), "card.sources", source, form)
        _check_source(source)


def _check_source(source: dict[str, Any]) -> None:
    """Raise `UserError` unless a source has a name and, if at all, a known licence and a URL."""
    for word, value in source.items():
        if word not in _OF_SOURCE:
            raise UserError(
                f"card.sources: no word {word!r}; wanted {', '.join(_OF_SOURCE)}"
                f"{nearest(str(word), _OF_SOURCE)}"
            )
        require(isinstance(value, str), f"card.sources.{word}", repr(value), "wanted a text")
    name = source.get("name", "").strip()
    require(name != "", "card.sources", source, "a source needs a name")
    if license := source.get("license"):
        check_choice(license, f"card.sources: {name}: license", LICENSES)
    if url := source.get("url"):
        require(is_web_address(url), f"card.sources: {name}: url", url, "wanted http(s)://…")


def is_language(tag: str) -> bool:
    """Tell whether `tag` is well-formed by the grammar of BCP 47; no registry is asked."""
    return _LANGUAGE.fullmatch(tag) is not None


def is_web_address(url: str) -> bool:
    """Tell whether `url` is an address of http or https with a host and without blanks."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    printable = url.isprintable() and not any(c.isspace() for c in url)
    return printable and parts.scheme in ("http", "https") and bool(parts.hostname)
