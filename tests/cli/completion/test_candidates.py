"""Candidates of completion: verbs, the keys that a verb reads, values and names on disk."""

import subprocess
import sys

import pytest

from btm.cli import main
from btm.cli.completion import places
from btm.cli.completion.candidates import candidates
from btm.cli.compose import full_key
from btm.cli.verbs import reads
from btm.config.keys import keys_of
from btm.config.schema import Config
from btm.forest import paths


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a forest, a prepared suite and text, in which the commands are typed."""
    for folder in (
        *("experts/mine/elms/law", "experts/mine/elms/med", "experts/mine/elms/seed"),
        *("experts/mine/elms/.new", "experts/mine/branches/news", "experts/mine/averages/deploy"),
        *("data/mine/law", "data/mine/med", "data/mine/tokenizer", "data/folder/a b"),
        *("texts/alpha", "with blank"),
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "experts/mine/forest.json").write_text("{}")
    (tmp_path / "texts/beta.jsonl").touch()
    monkeypatch.chdir(tmp_path)


def words(*typed):
    return [each.word for each in candidates(list(typed))]


# The last word that is typed, and after | what of it the candidates stand for.
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (("|tra",), ["train"]),
        (("read", "|au"), ["audit"]),
        (("commons", "|re"), ["review", "reject", "remove", "revoke"]),
        (("commons", "join", "|--n"), ["--new-key"]),
        (("completion", "|z"), ["zsh"]),
        (("run", "|--re"), ["--retry-failed", "--regrow"]),
        (("read", "train", "reader.|epo"), ["epochs="]),
        (("run", "trainer.|decay_"), ["decay_power=", "decay_share="]),
        (("run", "trainer.decay=|x"), []),
        (("run", "trainer.decay=|w"), ["wsd"]),
        (("run", "run.average=|"), ["true", "false"]),
        (("run", "cluster=|s"), ["slurm"]),
        (("show", "forest=experts/mine", "expert=|"), ["law", "med", "seed", "deploy"]),
        (("merge", "forest=experts/mine", "expert=|"), ["law", "med", "seed", "news"]),
        (("show", "data.name=mine", "expert=|l"), ["law"]),
        (("eval", "forest=experts/mine", "ensemble.experts=[law,|"), ["med", "seed"]),
        (("average", "forest=experts/mine", "weights=law:0.5,|m"), ["med:"]),
        (("show", "forest=experts/mine", "average.name=|"), ["deploy"]),
        (("generate", "forest=experts/mine", "domain=|"), ["law", "med"]),
        (("seed", "data.root=texts", "data.name=own", "seed.domains=[|"), ["alpha", "beta"]),
        (("serve", "forest=|e"), ["experts/"]),
        (("serve", "forest=|"), ["experts/mine", "data/", "experts/", "texts/"]),
        (("import", "from=texts/|"), ["alpha/", "beta.jsonl"]),
        (("show", "expert=|../"), []),
        (("plant", "|"), []),
    ],
)
def test_the_word_at_the_cursor_is_completed(place, typed, wanted):
    head, _, begun = typed[-1].partition("|")
    assert words(*typed[:-1], head + begun) == [head + each for each in wanted]


@pytest.mark.parametrize("verb", ["train", "run", "generate", "ls", "read train", "doctor"])
def test_the_keys_of_a_verb_are_those_that_it_reads(verb):
    typed = verb.split()
    offered, sections = set(), [""]
    while sections:
        for word in words(*typed, sections.pop()):
            if word.endswith("."):
                sections.append(word)
            elif word.endswith("="):
                offered.add(full_key(word))
    keys = {key.name for key in keys_of(Config())}
    assert offered & keys == {key for key in keys if reads.reads(verb, key)}


def test_a_key_that_stands_there_is_not_offered_again():
    assert "trainer.lr=" not in words("train", "trainer.lr=1e-3", "trainer.")
    assert "trainer.lr=" in words("train", "trainer.")


def test_the_demo_forest_is_meant_where_nothing_is_said(place):
    assert "bible" in [word.removeprefix("domain=") for word in words("generate", "domain=")]


def test_folders_have_the_names_of_a_forest():
    kinds = {kind for each in places._KINDS.values() for kind in each} - {places._DOMAINS}
    assert kinds == {paths.ELMS, *paths.DERIVED, paths.READERS}
    assert (places.FACTS, places._BRANCHES) == (paths.FACTS, paths._BRANCHES)
    keys = {key.name for key in keys_of(Config())}
    assert {*places._KINDS, *places._FOLDERS, *places._FILES, *places.WEIGHED} <= keys


def test_neither_torch_nor_hydra_is_waited_for():
    code = (
        "import sys; from btm.cli.main import main; main(['completion', 'candidates', 'ru']);"
        "sys.exit(bool({'torch', 'numpy', 'hydra', 'omegaconf'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "run\tall of it, as jobs\n"), done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [([], "takes one shell: bash, zsh, fish"), (["bush"], "did you mean 'bash'")],
)
def test_another_shell_is_refused_in_one_line(given, said, capsys):
    assert main.main(["completion", *given]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
