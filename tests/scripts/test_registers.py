"""What is taken out of the files of packages, on pieces of real ones."""

import zlib

import pytest

from suites import registers
from suites.extract import sword, web_page


def only(texts):
    (text, _), *more = texts
    assert not more
    return text


def test_a_program_loses_its_licence_and_keeps_its_comments():
    source = b"""#!/bin/sh
# Copyright (C) 2007 Free Software Foundation, Inc.
# This file is free software, under the GNU General Public License.

# Print the arguments.
echo "$@"
"""
    assert "Copyright" not in only(registers.program(source))
    assert (
        only(registers.program(b"/* Copyright 1999 */\nint main(void);\n")) == "int main(void);\n"
    )
    assert only(registers.program(b"-- adds one\nlocal x = 1\n")).startswith("-- adds one")
    assert list(registers.program(b"var a=[" + b"1," * 1000 + b"]")) == []


def test_chess_games_come_a_few_to_a_text_without_tags_that_say_nothing():
    game = b"""[Event "?"]
[Site "Hastings"]
[Date "????.??.??"]
[White "Player %d"]
[Result "1-0"]

1.e4 e5 2.Nf3 Nc6 3.Bc4 Nf6 4.Ng5 d5 5.exd5
Nxd5 1-0

"""
    texts = [text for text, _ in registers.chess_games(b"".join(game % i for i in range(7)))]
    assert [text.count("1.e4") for text in texts] == [5, 2]
    assert texts[1] == "\n".join(
        f'[Site "Hastings"]\n[White "Player {i}"]\n[Result "1-0"]\n\n'
        "1.e4 e5 2.Nf3 Nc6 3.Bc4 Nf6 4.Ng5 d5 5.exd5\nNxd5 1-0\n"
        for i in (5, 6)
    )


def test_words_that_translators_added_to_a_bible_stand_alone():
    word, added = "<w lemma='strong:G1'>{}</w>", "<transChange type='added'>{}</transChange>"
    glued = f"{word.format('de')} {word.format('la')}{added.format('que fué mujer')}{word.format('de')} Urías."
    apart = f"{word.format('in')} {added.format('the')} {word.format('beginning')}, {added.format('even')}."
    packed = b"".join(zlib.compress(text.encode()) for text in (glued, apart))
    assert [text for text, _ in sword(packed)] == [
        "de la que fué mujer de Urías.\n",
        "in the beginning, even.\n",
    ]


def test_a_manual_page_in_troff():
    page = rb""".\" Copyright (c) 1993 Michael Haardt
.TH LN 1 2020-08-13 "GNU" "Commands"
.SH NAME
ln \- make links between files
.SH "SEE ALSO"
.BR link (2),
\fBsymlink\fR(2)
.PP
Don\(aqt use \-f\.
"""
    text = only(registers.manual_page(page))
    assert "NAME\n\nln - make links between files\n\nSEE ALSO\n" in text
    assert "symlink(2)" in text and "Don't use -f" in text and "Haardt" not in text


def test_a_mail_is_its_subject_and_body():
    raw = b"""From: Someone <someone@example.org>
Received: from host
Subject: Re: Tiny DNS
 Swap
Content-Type: text/plain; charset=us-ascii

Daniel mentioned it on the list.
-- 
Someone
http://lists.example.org
"""
    assert (
        only(registers.mail(raw))
        == "Subject: Re: Tiny DNS Swap\n\nDaniel mentioned it on the list.\n"
    )
    html = (
        b"Subject: Sale\nContent-Type: text/html\n\n<html><body><p>Buy <b>now</b></p></body></html>"
    )
    assert only(registers.mail(html)) == "Subject: Sale\n\nBuy now\n"


def test_tagged_text_reads_as_text_again():
    line = b"\tThe/at Fulton/np-tl County/nn-tl said/vbd ``/`` no/at evidence/nn ''/'' ,/, (/( took/vbd )/) ./.\n"
    assert only(registers.tagged(line)) == 'The Fulton County said " no evidence ", (took).\n'


def test_an_ontology_becomes_sentences():
    obo = b"""format-version: 1.2

[Term]
id: HP:0000003
name: Multicystic kidney dysplasia
def: "Multiple cysts of a \\"kidney\\"." [HPO:curators]
comment: It is a severe form.
synonym: "Multicystic kidneys" EXACT []
is_a: HP:0000107 ! Renal cyst

[Term]
id: HP:0000057
name: obsolete Clitoromegaly
is_obsolete: true
"""
    assert only(registers.ontology(obo)) == (
        'Multicystic kidney dysplasia: Multiple cysts of a "kidney". It is a severe form. '
        "Also called Multicystic kidneys. It is a kind of Renal cyst.\n"
    )


def test_front_matter_and_marks_go():
    rule = b"---\nlicense_expression: mit\nis_license_notice: yes\n---\n\nLicensed under the {{MIT license}}.\n"
    assert only(
        registers.without_front_matter(rule)
    ) == "\nLicensed under the MIT license.\n".lstrip("\n")


def test_sayings_become_paragraphs():
    assert (
        only(registers.fortunes(b"A bird in the hand.\n%\nMake haste.\n"))
        == "A bird in the hand.\n\nMake haste.\n"
    )


def test_tex_without_comments():
    source = b"% rcsid\n\\section{A}\nText with 5\\% left.\n"
    assert only(registers.tex(source)) == "\\section{A}\nText with 5\\% left.\n"


def test_descriptions_of_one_family_are_one_text():
    index = b"""Package: zlib1g
Description-md5: 567f396aeeb2b2b63295099aed237057
Description-en: compression library - runtime
 zlib is a library.
 .
 Second paragraph.

Package: abc-dev
Description-md5: 0
Description-en: tunes
 Headers.

Package: abc
Description-md5: 0
Description-en: tunes
 Plays.
"""
    texts = [text for text, _ in registers.descriptions(index)]
    assert [text.split(":")[0] for text in texts] == ["abc-dev", "zlib1g"]
    assert "abc: tunes\nPlays." in texts[0]
    assert "zlib is a library.\n\nSecond paragraph." in texts[1]


def test_long_character_vectors_of_an_r_database():
    lines = [f"Line {i} of a book." for i in range(1_200)]
    raw = b"".join(b"\0\4\0\x09" + len(line).to_bytes(4, "big") + line.encode() for line in lines)
    noise = b"\0\0\0\7" + zlib.compress(b"too short")
    assert (
        only(registers.strings_of_r(noise + b"\x78\x9c" + noise + zlib.compress(raw)))
        == "\n".join(lines) + "\n"
    )


@pytest.mark.parametrize("data", [b'["One sentence.", 3, "Another."]'])
def test_sentences_of_a_json_list(data):
    assert only(registers.strings_of_json(data)) == "One sentence.\nAnother.\n"


def test_a_page_without_its_navigation():
    page = b"<html><head><title>x</title></head><body><nav>Up</nav><h1>A</h1><p>One\n two</p></body></html>"
    assert only(web_page(page)) == "A\n\nOne two\n"
