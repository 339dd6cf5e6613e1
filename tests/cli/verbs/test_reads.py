"""A key that cannot have an effect on a verb is refused; the words of a cycle are not."""

import re
import shlex
from pathlib import Path

import pytest

from btm.cli import main, verbs
from btm.cli.compose import all_keys, full_key
from btm.cli.verbs import reads


@pytest.mark.parametrize(
    ("verb", "word", "said"),
    [
        ("generate", "expert=bible", "ensemble.experts=[NAME]"),
        ("eval", "average=deploy", "models=[NAME]"),
        ("eval", "score.experts=[nobody]", "a key of score, run"),
        ("average", "name=x", "average.name=NAME"),
        ("ls", "generate.tokens=3", "a key of generate"),
    ],
)
def test_a_key_without_effect_is_refused(verb, word, said, tmp_path, capsys):
    assert main.main([verb, f"forest={tmp_path}", word]) == 2
    found = capsys.readouterr().err
    assert f"btm {verb} does not read {word}" in found
    assert said in found


def test_words_of_a_cycle_are_accepted_by_every_verb():
    for verb in verbs.VERBS:
        for key in ("forest", "data.name", "trainer.steps", "model.name", "cluster.kind", "branch"):
            reads.require(verb, key, f"{key}=x")


def test_what_is_declared_exists():
    keys = set(all_keys())
    for key, known in reads.READERS.items():
        assert key in keys or any(name.startswith(key) for name in keys if key.endswith(".")), key
        assert set(known) <= set(verbs.VERBS)
    for verb, key in reads._MEANT:
        assert verb in verbs.VERBS
        assert verb not in (reads.readers(key) or (verb,))


ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_commands_of_the_pages_give_no_key_without_effect():
    seen = 0
    for page in PAGES:
        for verb, rest in re.findall(r"^ +(?:\$ )?btm (\w+) +(.*)", page.read_text(), re.MULTILINE):
            if verb not in verbs.VERBS:
                continue
            for word in shlex.split(rest.removesuffix("\\"), comments=True):
                if re.match(r"[a-z_.]+=", word):
                    reads.require(verb, full_key(word), word)
                    seen += 1
    assert seen >= 80


def test_help_lists_the_keys_that_the_verb_reads_and_the_defaults_in_force(capsys):
    assert main.main(["generate", "--help"]) == 0
    found = capsys.readouterr().out
    assert "ensemble.rule=gated" in found
    assert "generate.tokens=64" in found
    assert "discover.k=" not in found
    assert "\n  expert=" not in found
    assert main.main(["generate", "--help", "--all"]) == 0
    assert "discover.k=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "listed", "left_out"),
    [
        ("eval", ["eval.suites", "eval.name", "baseline"], ["branch", "seed.steps"]),
        ("grow", ["branch", "eval.suites", "trainer.steps"], ["baseline", "ls.name"]),
        ("ls", ["ls.name", "baseline", "forest"], ["branch", "trainer.steps"]),
    ],
)
def test_help_lists_what_a_verb_reads_and_nothing_else(verb, listed, left_out, capsys):
    assert main.main([verb, "--help"]) == 0
    found = capsys.readouterr().out
    assert all(f"\n  {key}=" in found for key in listed)
    assert not any(f"\n  {key}=" in found for key in left_out)


def test_all_without_help_is_refused(capsys):
    assert main.main(["ls", "--all"]) == 2
    assert "--all goes with --help" in capsys.readouterr().err
