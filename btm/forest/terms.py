"""Terms: what a card says of licence, languages, sources and use, and what descendants keep of it.

Which licences bind a descendant is in `refused`: a help for whoever publishes, no legal advice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Protocol

from btm.config.card import CardConfig, is_language, is_web_address
from btm.config.choices import LICENSES
from btm.forest.branch import ELM
from btm.forest.card import Card, Source

# A help, no legal advice. Patterns of identifiers of the Hub: licences that forbid to share what
# was made of a work,
_NO_DERIVATIVES = ("cc-by-nd-*", "cc-by-nc-nd-*")
# and those under which what was made of a work keeps their restrictions of use, or the licence.
_PASSED_ON = {
    "restrictions of use go with every descendant": (
        *("openrail", "openrail++", "*-openrail-m", "bigscience-bloom-rail-1.0"),
        *("deepfloyd-if-license", "llama*", "gemma"),
    ),
    "descendants keep the licence (share-alike)": (
        *("cc-by-sa-*", "cc-by-nc-sa-*", "*gpl*", "gfdl", "eupl-*", "osl-3.0"),
    ),
}


@dataclass(frozen=True)
class Terms:
    """The fields of a `Card` that are stated or inherited, under the same names."""

    license: str = ""
    languages: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    use: str = ""
    restrictions: list[str] = field(default_factory=list)
    ancestor_licenses: dict[str, str] = field(default_factory=dict)
    own_languages: list[str] | None = None

    @classmethod
    def of_config(cls, stated: CardConfig) -> "Terms":
        """Make the terms that the keys of `card` state."""
        return cls(
            stated.license or "",
            list(stated.languages),
            [Source(**source) for source in stated.sources],
            stated.use,
            [stated.restrictions] if stated.restrictions else [],
            own_languages=list(stated.languages) or None,
        )

    @classmethod
    def of_card(cls, card: Card) -> "Terms":
        """Read the terms of a card."""
        return cls(**{item.name: getattr(card, item.name) for item in fields(cls)})

    @classmethod
    def inherited(cls, ancestors: Iterable[Card]) -> "Terms":
        """Unite what a model keeps of its ancestors: all but their intended use, and which
        languages are of their own text; their licences under their names.
        """
        kept = cls()
        for card in ancestors:
            own = {card.name: card.license} if card.license else {}
            terms = replace(cls.of_card(card), license="", use="", own_languages=None)
            kept = kept.with_(terms).with_(cls(ancestor_licenses=own))
        return kept

    def with_(self, other: "Terms") -> "Terms":
        """Add other terms; their licence and intended use come before these, where stated."""
        return Terms(
            other.license or self.license,
            list(dict.fromkeys([*self.languages, *other.languages])),
            list(dict.fromkeys([*self.sources, *other.sources])),
            other.use or self.use,
            list(dict.fromkeys([*self.restrictions, *other.restrictions])),
            self.ancestor_licenses | other.ancestor_licenses,
            _united(self.own_languages, other.own_languages),
        )

    def checked(self) -> "Terms":
        """Leave out of a sender's terms what no key would take; words are escaped in README.md."""
        return Terms(
            self.license if self.license in LICENSES else "",
            [tag for tag in self.languages if is_language(tag)],
            [
                Source(
                    source.name,
                    source.license if source.license in LICENSES else "",
                    source.url if is_web_address(source.url) else "",
                )
                for source in self.sources
                if source.name.strip()
            ],
            self.use,
            self.restrictions,
            {name: each for name, each in self.ancestor_licenses.items() if each in LICENSES},
            self.own_languages and [tag for tag in self.own_languages if is_language(tag)],
        )

    def on(self, card: Card) -> Card:
        """Put the terms on a card, in place of those it has."""
        return replace(card, **{item.name: getattr(self, item.name) for item in fields(self)})


def _united(one: list[str] | None, two: list[str] | None) -> list[str] | None:
    """Unite lists, each value once; None where both are."""
    if one is None and two is None:
        return None
    return list(dict.fromkeys([*(one or []), *(two or [])]))


NONE_STATED = Terms()


class Elms(Protocol):
    """The ELMs that stand, by name, as a `Forest` has them."""

    def __contains__(self, name: str) -> bool: ...
    def __getitem__(self, name: str) -> ELM: ...


def descended(card: Card, elms: Elms, stated: Terms = NONE_STATED) -> Card:
    """Add to a model's card what it keeps of its ancestors in a forest, and what was `stated`.

    All ancestors are read, not the parents alone: cards of an older btm hold only their own terms.
    """
    inherited = Terms.inherited(_ancestors(card, elms))
    return inherited.with_(Terms.of_card(card)).with_(stated).on(card)


def unstated(card: Card, elms: Elms) -> str:
    """Say which imported models a model is, or was made of, whose licence nobody stated; empty if
    there is none. Nothing is known that forbids their descendants to go out.
    """
    found = [each for each in (card, *_ancestors(card, elms)) if each.source and not each.license]
    whose = ["itself" if each is card else f"its ancestor {each.name!r}" for each in found]
    if not whose:
        return ""
    return (
        f"{card.name!r}: no licence is stated of {', '.join(whose)}, imported from elsewhere: see "
        "what its author allows"
    )


def _ancestors(card: Card, elms: Elms) -> list[Card]:
    """Read the cards of a model's ancestors that stand."""
    return [
        elms[spent.name].card
        for spent in card.ancestors
        if spent.name in elms and elms[spent.name].card.sha256 == spent.sha256
    ]


def refused(card: Card, stated: str) -> str:
    """Say why a model may not go out with the licence `stated` (empty: with its own); empty if
    nothing is known against it.
    """
    ancestors = [(f"its ancestor {name!r}", each) for name, each in card.ancestor_licenses.items()]
    sources = [(f"its source {source.name!r}", source.license) for source in card.sources]
    if card.steps or card.tokens or card.parents:  # anything but an unchanged import
        for whose, license in (*ancestors, *sources):
            if _is_one_of(license, _NO_DERIVATIVES):
                return (
                    f"{license} of {whose} forbids to share what was made of it; "
                    "leave it out of the forest, or get leave of its author"
                )
    new = stated or card.license
    for whose, license in (("the model itself", card.license), *ancestors):
        for why, patterns in _PASSED_ON.items():
            if new and new != license and _is_one_of(license, patterns):
                return (
                    f"card.license={new} is not {license} of {whose}, whose {why}; "
                    f"give card.license={license}"
                )
    return ""


def _is_one_of(license: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(license, pattern) for pattern in patterns)
