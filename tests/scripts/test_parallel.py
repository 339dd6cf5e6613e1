"""Languages out of packages: English and Spanish text of the demo, as pages of the same works."""

import json
import struct

import pytest

import build_corpora
from btm.cli.compose import compose
from btm.config.data import DataConfig
from btm.data.prepare import prepare
from btm.errors import UserError
from suites.audit import audit
from suites.documents import SPLITS
from suites.domains import DOMAINS, SUITES
from suites.extract import plain
from suites.languages import EDITIONS, FAMILIES, LANGUAGES, Edition, family_of, tag_of
from suites.licences import licences
from suites.packages import NPM
from suites.parallel import read_languages, split_of
from suites.translations import articles, catalogue, catalogue_source, emoji, messages, page

BOOKS = Edition(
    NPM, "books", "1.0.0", r"(?P<language>\w\w)/(?P<page>\d+)\.txt$", "books", page(plain)
)
BOOK = "A paragraph that nobody has translated, so that it stands in both languages, word for word."


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def reads(work, real, package):
    """English, Spanish with an English paragraph on each page, and Wolof, of one page alone."""
    files = {f"en/{i}.txt": f"{text}\n\n{BOOK}" for i, text in enumerate(real["bible"])}
    files |= {f"es/{i}.txt": f"{text}\n\n{BOOK}" for i, text in enumerate(real["spanish"])}
    files["wo/3.txt"] = real["novels"][0]
    package(work, "books", files | {"package.json": '{"license": "CC0-1.0"}'})
    return read_languages(["en", "es", "wo"], work, 10**6, lambda line: None, [BOOKS])


def documents(read):
    return [(split, doc) for split in SPLITS for doc in read.documents(split)]


def test_a_page_is_in_one_split_in_all_languages(reads):
    found = [{o: split for split, doc in documents(read) for o in doc.origins} for read in reads]
    english, spanish, wolof = found
    assert len(english) == len(spanish) == 80 and len(wolof) == 1
    assert english == spanish and set(english.values()) == set(SPLITS)
    assert wolof.items() <= english.items()


def test_what_stands_in_english_is_left_out_of_the_others(reads):
    assert sum(BOOK in doc.text for _, doc in documents(reads[0])) == 1
    assert not any(BOOK in doc.text for _, doc in documents(reads[1]))


def test_a_language_without_a_split_is_left_out_and_named(reads, tmp_path):
    out = tmp_path / "suite"
    content = build_corpora.publish("roots", reads, out)
    assert set(content["domains"]) == {"en", "es"}
    assert content["left_out"]["wo"].startswith("no document for ")
    assert content["domains"]["es"]["licences"] == {"books-1.0.0.tgz": ["CC0-1.0"]}
    assert content["domains"]["es"]["licence"] == "CC0-1.0"
    assert build_corpora.present("roots", reads, out) == content
    assert list(build_corpora.table(content))[-1].split()[:3] == ["wo", "left", "out:"]
    suite = prepare(DataConfig(name="s", root=str(out), out=str(tmp_path / "data"), vocab_size=512))
    assert suite.training_domains() == ["en", "es"]


def test_the_audit_finds_a_translation_in_another_split(reads, tmp_path):
    out = tmp_path / "suite"
    build_corpora.publish("roots", reads, out)
    assert [row["translated"] for row in audit(out)] == [0, 0]
    first, *rest = (out / "es" / "test.jsonl").read_text().splitlines(keepends=True)
    (out / "es" / "test.jsonl").write_text("".join(rest))
    with (out / "es" / "train.jsonl").open("a") as handle:
        handle.write(first)
    assert all(row["translated"] for row in audit(out))
    with pytest.raises(UserError, match="translations in two splits: en, es"):
        build_corpora.check(out)


def test_what_was_read_is_not_read_again(reads, work):
    lines = []
    again = read_languages(["en", "es", "wo"], work, 10**6, lines.append, [BOOKS])
    assert lines == ["3 languages: read already"]
    assert [each.domain for each in again] == [each.domain for each in reads]


def test_splits_hold_out_the_shares_that_they_should():
    splits = [split_of(f"work/{i}", 0.05) for i in range(4_000)]
    assert 150 < splits.count("test") < 250 and 150 < splits.count("valid") < 250


def test_the_suite_has_the_languages_of_roots():
    suite = SUITES["roots"]
    names = {*suite.training, *suite.novel}
    assert names & set(LANGUAGES) == set(LANGUAGES) and len(LANGUAGES) == 46
    programs = names - set(LANGUAGES)
    assert len(programs) == 13 and programs <= set(DOMAINS)
    assert len({edition.work for edition in EDITIONS}) > 5


def test_the_experiment_grows_families_before_their_languages():
    assert sorted(" ".join(tags for _, tags in FAMILIES.values()).split()) == sorted(LANGUAGES)
    config = compose(["experiment=roots"])
    first, second, last = ([x for x in each if x in LANGUAGES] for each in config.run.rounds)
    assert sorted(map(family_of, first)) == sorted(FAMILIES)
    assert {*first, *second} == {tag for tag in SUITES["roots"].training if tag in LANGUAGES} - {
        "ki"
    }
    assert tuple(last) == SUITES["roots"].novel
    assert all(family_of(tag) in map(family_of, first) for tag in (*second, *last))
    assert config.data.sampling == config.seed.sampling == 0.3


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("pt_BR", "pt"),
        ("zh-TW", "zh-hant"),
        ("zh_CN", "zh-hans"),
        ("zh-hant", "zh-hant"),
        ("ca@valencia", "ca"),
        ("aka_asante", "tw"),
        ("aka_fante", "ak"),
        ("nya_chinyanja", "ny"),
        ("C", "en"),
        ("qqq", ""),
        ("de_DE", ""),
    ],
)
def test_packages_call_languages_by_many_names(name, tag):
    assert tag_of(name) == tag


def compiled(messages):
    """A catalogue of gettext, as msgfmt writes it."""
    pairs = [(key.encode(), text.encode()) for key, text in messages.items()]
    at, tables, strings = 28 + 16 * len(pairs), [b"", b""], b""
    for i in (0, 1):
        for pair in pairs:
            tables[i] += struct.pack("<2I", len(pair[i]), at + len(strings))
            strings += pair[i] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + tables[0] + tables[1] + strings


def test_messages_are_told_by_their_english():
    assert list(
        catalogue(
            compiled(
                {
                    "": "Language: es",
                    "menu\4Open": "Abrir",
                    "a file\0files": "un archivo\0archivos",
                    "PDF": "PDF",
                }
            )
        )
    ) == [("Open", "Abrir"), ("a file", "un archivo"), ("a file", "archivos")]
    source = 'msgid ""\nmsgstr "x"\n\nmsgctxt "#1"\nmsgid "Say \\"yes\\""\nmsgstr ""\n"Di "\n"\\"sí\\""\n'
    assert list(catalogue_source(source.encode())) == [('Say "yes"', 'Di "sí"')]
    data = json.dumps({"@metadata": {}, "go": "Baa ko", "n": "x"}).encode()
    assert list(messages(data)) == [("go", "Baa ko")]


def test_articles_and_characters():
    data = b'<body><header><p>Whereas</p></header><article data-number="1"><h2>One</h2><p>All</p></article>'
    assert list(articles(data)) == [("0", "Whereas\n"), ("1", "One\n\nAll\n")]
    data = '<annotation cp="x">a | b</annotation><annotation cp="x" type="tts">c</annotation>'
    assert list(emoji(data.encode())) == [("x", "c: a, b")]


def test_licences_as_packages_state_them():
    copyright = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: debian/*
License: GPL-2+

Files: *
Copyright: 2001 Somebody
License: MPL-2.0

License: MPL-2.0
 Text of the licence.
"""
    place = "./usr/share/doc/x/copyright"
    assert licences([(place, copyright)]) == ["MPL-2.0", "GPL-2+"]
    prose = b"See /usr/share/common-licenses/LGPL-2.1. Of x/: /usr/share/common-licenses/GPL-2 file"
    assert licences([(place, prose)]) == ["LGPL-2.1", "GPL-2"]
    metadata = (
        b"Metadata-Version: 2.4\nClassifier: License :: OSI Approved :: MIT License\n\nText\n"
    )
    assert licences([("x-1.dist-info/METADATA", metadata)]) == ["MIT License"]
    assert licences([]) == ["LicenseRef-unstated"]
