"""The pages of --help and the reference of settings."""

import re
import shlex

import pytest
from folders import ROOT

from btm.cli import compose, flags, help, main, reference
from btm.cli.verbs import VERBS, reads


@pytest.fixture(scope="module")
def settings():
    return help.keys_in_force()


def page_of(verb, *, in_full=False):
    return help.of_verb(verb, VERBS[verb].__doc__, in_full=in_full)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_come_first_and_are_valid(verb):
    examples = help.examples(verb, VERBS[verb].__doc__)
    assert len(examples) >= 2
    assert page_of(verb).splitlines()[2:4] == [f"  {example}" for example in examples[:2]]
    for example in examples:
        named, words = main.parted(shlex.split(example)[1:])
        assert named == verb
        given = {word for word in words if word.startswith("-")}
        assert given <= {*main._FLAGS, *main._FLAGS_OF.get(verb, ())}
        settings = [word for word in words if word not in given]
        compose.compose(settings)
        for word in settings:
            reads.require(verb, compose.full_key(word), word)


@pytest.mark.parametrize("group", ["read", "commons"])
def test_a_group_lists_its_verbs(group, capsys):
    wanted = [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{group} ")]
    assert main.main([group, "--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"  {group} {name} " in page for name in wanted)
    assert main.main([group]) == 2
    assert ", ".join(wanted) in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "ls", "eval"])
def test_a_page_lists_what_the_verb_reads_and_fits_100_columns(verb, settings):
    page = page_of(verb)
    assert max(map(len, page.splitlines())) <= 100
    for key, _ in settings:
        if key.name.count(".") < 2:
            listed = re.search(rf"^  {re.escape(help.shown_name(key))}=", page, re.MULTILINE)
            assert bool(listed) == reads.reads(verb, key.name), key.name


def test_a_line_gives_the_default_in_force_the_meaning_and_the_choices():
    page = " ".join(page_of("eval").split())
    assert (
        "ensemble.rule=gated how the experts are weighed as a text goes on (bayes, simple" in page
    )
    assert "seed.from=null Hugging Face model folder" in " ".join(page_of("seed").split())


def test_a_line_says_what_a_key_takes_where_no_choices_do(settings):
    page = " ".join(page_of("train", in_full=True).split())
    for key, kind in [
        ("trainer.clip", "(number)"),
        ("trainer.threads", "(whole number)"),
        ("run.domains", "(list of words)"),
        ("run.average", "(true or false)"),
        ("trainer.lr", "(number or word)"),
    ]:
        (found,) = [each for each, _ in settings if each.name == key]
        assert f"{found.meaning} {kind}" in page
    for key, _ in settings:
        assert key.choices or key.type == "Any" or help._kind(key), key


def test_sections_of_equal_keys_are_listed_once():
    page = page_of("run")
    assert "cluster.seed, cluster.train, cluster.score, cluster.finish:" in page
    assert len(re.findall(r"^  \.cpus=null", page, re.MULTILINE)) == 1


def test_all_keys_are_listed_with_all(settings):
    page = page_of("ls", in_full=True)
    for key, _ in settings:
        name = help.shown_name(key) if key.name.count(".") < 2 else "." + key.name.split(".")[-1]
        assert f"  {name}=" in page
        assert key.meaning in " ".join(page.split())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("", "''"),
        ([], "[]"),
        (["valid", "test"], "[valid,test]"),
        (0.1, "0.1"),
        ({}, "{}"),
        ({str(i): i for i in range(20)}, "{…}"),
    ],
)
def test_defaults_are_written_as_a_command_takes_them(value, text):
    assert help.shown_value(value) == text


def test_the_pages_of_settings_and_verbs_are_what_the_code_makes():
    assert (ROOT / "docs" / "settings.md").read_text() == reference.page(), (
        "run: python -m btm.cli.reference > docs/settings.md"
    )
    assert (ROOT / "docs" / "verbs.md").read_text() == reference.page_of_verbs(), (
        "run: python -m btm.cli.reference verbs > docs/verbs.md"
    )


@pytest.mark.parametrize("verb", flags.FLAGS_OF)
def test_a_page_tells_the_flags_of_its_verb(verb):
    page = " ".join(page_of(verb).split())
    for flag, meaning in flags.FLAGS_OF[verb].items():
        assert f"{flag} {meaning}" in page
