"""Values on a command line: text as the shell hands it over, lists and maps with brackets or
without, and one line that shows the right form where a value is wrong.
"""

import json
import random
import shlex
import shutil

import pytest

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError, command

TEXTS = [
    *("run/epoch=3-step=100", "a,b", "texts (v2)", "x[1]", "tëxte", "o'brien", "$HOME/x", "${x}"),
    *("${oc.env:HOME}", r"\${x}", "two  blanks", "back\\slash", 'say "so"', "a=b=c", "true", "1e5"),
    *(
        "[a, b]",
        "{a: b}",
        "a:b",
        "x # y",
        "100%",
        "'quoted'",
        "*?",
        "a;b|c&d",
        "@x",
        "0x10",
        "é\u0301",
    ),
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_taken_as_it_is(text):
    config = compose([f"data.root={text}", f"forest={text}", f"to={text}", f"remove.reason={text}"])
    assert (config.data.root, config.forest, config.to, config.remove.reason) == (text,) * 4


def test_any_text_comes_through():
    draw = random.Random(0)
    signs = [*"ab$\\'\"{}[](),:=~ #@!%&*|;é/.-+?<>\n\t", "${", "${x}", "\\${", "\\\\${"]
    for _ in range(100):
        text = "".join(draw.choices(signs, k=draw.randint(0, 9)))
        assert compose([f"prompt={text}"]).prompt == text
        path = "x" + text.replace("\n", "").replace("\t", "")
        assert compose([f"forest={path}"]).forest == path


def test_home_is_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/o'brien")
    words = ["data.root=~/texts", "models=[~/a,b]", "prompt=~/x", "data.made_by=~/make"]
    config = compose([*words, "cluster.setup=[source ~/env]", "from=~", "forest=a~/b"])
    assert config.data.root == "/home/o'brien/texts"
    assert config.models == ["/home/o'brien/a", "b"]
    assert config.imports.source == "/home/o'brien"
    assert config.forest == "a~/b"
    assert (config.prompt, config.data.made_by) == ("~/x", "~/make")  # free text, a command
    assert config.cluster.setup == ["source ~/env"]


def test_null_is_none_where_a_key_may_have_none():
    config = compose(["data.root=null", "prompt=null", "data.name=null", "weights=null"])
    assert (config.data.root, config.prompt, config.data.name, config.weights) == (
        *(None, "null", "null", None),
    )


VALUES = {
    "run.domains=red": ["red"],
    "run.domains=red,blue": ["red", "blue"],
    "run.domains=[red, blue]": ["red", "blue"],
    "run.domains=[\"red\", 'blue']": ["red", "blue"],
    "run.domains=[]": [],
    "run.domains=[null,true,1e5]": ["null", "true", "1e5"],
    "run.rounds=[[law, med],[bio]]": [["law", "med"], ["bio"]],
    "run.rounds=[law,med],[bio]": [["law", "med"], ["bio"]],
    "models=/x[1]/m,b": ["/x[1]/m", "b"],
    "models=[/x[1]/m, (v2)]": ["/x[1]/m", "(v2)"],
    "models=x[1,b": ["x[1", "b"],
    "models='a,b'": ["a,b"],
    'models=["o\'brien, s"]': ["o'brien, s"],
    r"models=['it\'s, a\\b']": [r"it's, a\b"],
    "models='tis,b": ["'tis", "b"],
    "trainer.betas=0.8,0.9": [0.8, 0.9],
    "trainer.betas=[0.8, 0.9]": [0.8, 0.9],
    "paper.seeds=0,1": [0, 1],
    "weights=red:0.5,blue:0.5": {"red": 0.5, "blue": 0.5},
    "weights=red=0.5,blue=1": {"red": 0.5, "blue": 1},
    "weights={red: 0.5, blue: .5}": {"red": 0.5, "blue": 0.5},
    'weights={"red": 1}': {"red": 1},
    "weights=null:1,1e5:2": {"null": 1, "1e5": 2},
    "weights=uniform": "uniform",
    "average.layers={model.layers.[0-3].*: {law: 1.0}}": {"model.layers.[0-3].*": {"law": 1.0}},
    "cluster.extra={comment: 'a, b', exclusive: true}": {"comment": "a, b", "exclusive": True},
    "cluster.extra=comment=o'brien,mem=4": {"comment": "o'brien", "mem": 4},
    "cluster.setup=[module load a/b, 'echo a,b']": ["module load a/b", "echo a,b"],
    "trainer.lr=2e-4": 2e-4,
    "trainer.lr=find": "find",
    "trainer.steps=1_000": 1000,
    "trainer.kernels=false": False,
    "ensemble.alpha=null": None,
}


@pytest.mark.parametrize("word", VALUES)
def test_plain_forms(word):
    found = compose([word])
    for part in word.partition("=")[0].split("."):
        found = getattr(found, part)
    assert found == VALUES[word]
    assert type(found) is type(VALUES[word])


def test_fields_of_a_model():
    words = ["rope_scaling={type: linear, factor: 2}", "ids=[1,2]", "hidden_act=a(b)", "x=null"]
    config = compose([f"model.config.{word}" for word in words]).model.config
    assert config["rope_scaling"] == {"type": "linear", "factor": 2}
    assert (config["ids"], config["hidden_act"], config["x"]) == ([1, 2], "a(b)", None)
    whole = compose(["model.config=hidden_size:32,num_hidden_layers:1"]).model.config
    assert (whole["hidden_size"], whole["num_hidden_layers"]) == (32, 1)
    assert whole["model_type"] == "llama"  # what is given joins what the bundle has


def test_the_last_word_counts_and_bundles_are_read_first():
    assert compose(["forest=a", "forest=b,c"]).forest == "b,c"
    assert compose(["trainer.steps=3", "experiment=smoke"]).trainer.steps == 3
    assert "hidden_size" not in compose(["~model.config.hidden_size"]).model.config
    assert compose(["+forest=a", "++data.root=b"]).forest == "a"


def test_against_is_one_model_of_diff_and_a_list_of_compare():
    assert compose(["against=a,b"], "diff").against == "a,b"
    assert compose(["against=a,b"], "compare").against == ["a", "b"]
    assert compose(["against=[a,b]"], "run").against == ["a", "b"]


WRONG = {
    "run.domains=[red": "a bracket does not match; wanted run.domains=NAME,NAME, or run.domains=[]",
    "run.domains=": "nothing is given; wanted run.domains=NAME,NAME",
    "run.domains=red,": "a comma stands beside nothing; wanted run.domains=NAME,NAME",
    "run.domains=null": "null is no list; wanted run.domains=NAME,NAME",
    "run.rounds=law,med": "wanted run.rounds=[[law,med],[biolaw]]",
    "weights=red": "give each ELM a weight: weights=law:0.7,med:0.3",
    "weights={red": "wanted weights=law:0.7,med:0.3",
    "weights=[red,blue]": "wanted weights=law:0.7,med:0.3",
    "weights=red:1,red:2": "red stands there twice",
    "weights=red:much": "weights.red='much'",
    "average.layers=law": "wanted average.layers='{*.mlp.*: {law: 1.0}}'",
    "trainer.steps=1,000": "trainer.steps=1,000: wanted a whole number",
    "trainer.warmup=[1]": "trainer.warmup=[1]: wanted a number",
    "trainer.lr=choice(1,2)": "wanted a positive number, or find",
    "cluster.extra=x": "wanted cluster.extra=NAME:VALUE",
    "paper.seeds=a": "'a' is no number; wanted paper.seeds=NUMBER,NUMBER",
    "trainer.betas=(0.9, 0.95)": "'(0.9' is no number; wanted trainer.betas=NUMBER,NUMBER",
    "trainer.steps=1e3": "trainer.steps=1e3: wanted a whole number",
    "trainer.kernels=maybe": "trainer.kernels=maybe: wanted true or false",
    "run.domains=red blue": "commas between them, run.domains=law,med",
    "run.domains={red,blue}": "commas between them, run.domains=law,med",
    "--forest=x": "a setting has no dashes: wanted forest=x",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_value_is_shown_the_right_one(word, capsys):
    assert main.main(["ls", word]) == 2 or main.main(["run", word]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert WRONG[word] in said
    assert "multirun" not in said


def test_printed_commands_are_what_a_shell_takes():
    forest = "o'brien's, (v2)/$HOME/ x[1] "
    words = shlex.split(command("merge", forest=forest, expert="law"))
    assert words == ["btm", "merge", f"forest={forest}", "expert=law"]
    assert command("run", **{"data.root": "texts"}) == "btm run data.root=texts"


def test_a_cycle_in_a_folder_of_any_name(workspace, texts, tmp_path, capsys):
    """Each verb, and the command that each prints, on paths that hydra and a shell would split."""
    place = tmp_path / "epoch=3-step=100" / "a,b (v2) x[1] tëxte o'brien $\\frac{b$ ${x}  \\z"
    shutil.copytree(texts, place / "te xts")
    small = [word for word in workspace if not word.startswith(("data.", "forest="))]
    forest = f"forest={place / 'forest, 1'}"
    own = [*small, "trainer.steps=2", "seed.steps=2", "score.max_tokens=256", "merge.force=true"]
    words = [*own, forest, f"data.root={place / 'te xts'}", f"data.out={place / 'da=ta'}"]
    for step in (["prepare"], ["seed"], ["branch", "branch=copy"], ["train"]):
        named = ["expert=bible"] if step[0] in ("branch", "train") else []
        assert main.main([*step, *words, *named]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out.rpartition("next: btm ")[2]
    assert main.main([*shlex.split(printed), "merge.force=true"]) == 0, capsys.readouterr().err
    assert main.main(["eval", forest, "eval.domains=bible"]) == 0, capsys.readouterr().err
    out = place / "out {1}"
    assert main.main(["export", forest, "expert=bible", f"to={out}"]) == 0
    capsys.readouterr()
    prompt = 'a {b}: "c"\n[d], ${e}\\'
    mixed = [
        f"ensemble.experts=bible,'{str(out).replace(chr(92), 2 * chr(92)).replace(chr(39), chr(92) + chr(39))}'"
    ]
    assert main.main(["generate", forest, f"prompt={prompt}", *mixed, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["prompt"] == prompt
    assert set(made["experts"]) == {"bible", str(out)}


def test_a_number_of_another_kind_is_a_mistake():
    with pytest.raises(UserError, match="wanted a whole number"):
        compose(["trainer.batch_size=many"])
