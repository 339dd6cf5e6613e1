"""The command line: what it prints, what it refuses, and that a mistake changes nothing."""

import json
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
from folders import tree

from btm.cli import compose, main
from btm.forest import Forest, publish


def run(capsys, *words):
    code = main.main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def words(workspace, grown, tmp_path):
    """Overrides for a copy of the forest that a test may change."""
    shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    return [*workspace, f"forest={tmp_path / 'forest'}"]


def test_help_is_fast_and_names_every_verb():
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "btm.cli", "--help"], capture_output=True, text=True
    )
    seconds = time.monotonic() - begun
    from btm.cli.verbs import VERBS

    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    assert seconds < 2  # the aim is 0.3 s; this only catches an import of torch on a busy machine


def test_help_imports_nothing_heavy():
    code = "import sys; from btm.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"torch", "hydra", "numpy", "transformers", "omegaconf"} & set(done.stderr.split())


def test_every_verb_has_help_with_an_example(capsys):
    from btm.cli.verbs import VERBS

    for verb in VERBS:
        code, out, _ = run(capsys, verb, "--help", "--all")
        assert code == 0
        assert f"\n  btm {verb}" in out
        assert "trainer.lr=" in out
        assert "seed.from=null" in out


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, "0.1.0\n")


def test_ls_and_show(capsys, words):
    code, out, _ = run(capsys, "ls", *words)
    assert code == 0
    assert "code_python" in out
    (uniform,) = [line for line in out.splitlines() if line.split()[0:1] == ["uniform"]]
    assert "3 models" in uniform
    code, out, _ = run(capsys, "ls", "--json", *words)
    assert [row["name"] for row in json.loads(out)] == [
        *("bible", "code_python", "seed", "speeches", "uniform")
    ]
    code, out, _ = run(capsys, "show", "expert=bible", *words)
    lines = dict(line.strip().split("  ", 1) for line in out.splitlines() if "  " in line.strip())
    assert {"domains", "parents", "training", "valid loss", "sha256"} <= set(lines)
    assert lines["parents"].strip().startswith("seed 1.000")
    assert "with its ancestors" in lines["training"]
    assert not any("candidates" in name for name in lines)  # its parent was the only one
    code, out, _ = run(capsys, "show", "expert=bible", "--json", *words)
    assert json.loads(out)["domains"] == ["bible"]
    code, out, _ = run(capsys, "show", "expert=uniform", "--json", *words)
    assert set(json.loads(out)["parents"]) == {"bible", "code_python", "speeches"}
    assert run(capsys, "show", "average=uniform", "--json", *words)[:2] == (0, out)
    code, out, _ = run(capsys, "show", "average=uniform", *words)
    assert "averages/uniform" in out


def test_doctor(capsys, words):
    code, out, _ = run(capsys, "doctor", "--json", *words)
    assert code == 0
    found = {row["what"]: row["found"] for row in json.loads(out)}
    assert {"torch", "cores", "trainer.precision=auto", "Slurm", "extra lora"} <= set(found)
    assert "exactly one" in found["disk: rename"]
    assert "stands" in found["forest"]


def test_doctor_names_a_disk_on_which_no_forest_can_stand_first(capsys):
    code, out, _ = run(capsys, "doctor", "--json", "forest=/proc/self/forest")
    assert code == 0
    first = [row["found"] for row in json.loads(out) if row["what"] == "disk"][:2]
    assert first == [row["found"] for row in json.loads(out)[:2]]  # no room, and not writable
    assert all(found.startswith("PROBLEM: ") for found in first), first


def test_doctor_looks_for_the_ray_cluster_of_a_server(capsys):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["serve.engine=ray", f"serve.ray.address={address}"]

        def found():
            rows = json.loads(run(capsys, "doctor", "--json", *words)[1])
            return next(row["found"] for row in rows if row["what"] == "Ray")

        assert found().endswith(f"a cluster answers at {address}")
    assert found().startswith("PROBLEM: ") and f"none answers at {address}" in found()


@pytest.mark.slow
def test_the_verbs_one_by_one(capsys, words):
    common = [*words, "expert=tales", "domain=novels", "trainer.steps=2", "merge.force=true"]
    for verb, said in [("branch", "parent"), ("train", "next: btm merge"), ("merge", "elms/tales")]:
        code, out, err = run(capsys, verb, *common)
        assert code == 0, err
        assert said in out
        if verb == "branch":
            assert "branch" in run(capsys, "ls", *words)[1]
    assert run(capsys, "merge", *common)[0] == 0
    code, out, _ = run(capsys, "score", *words, "score.experts=[tales]")
    assert "score files written" in out
    code, out, _ = run(
        capsys, "average", *words, "weights={tales: 1, bible: 2}", "average.name=mine"
    )
    assert "averages/mine" in out
    code, out, _ = run(capsys, "eval", *words, "eval.name=after")
    assert "novels/test" in out
    assert "after.png" in out
    code, out, _ = run(capsys, "eval", "--json", *words, "eval.domains=[bible]")
    assert set(json.loads(out)["shards"]) == {"bible/test"}
    code, out, _ = run(capsys, "prepare", *words)
    assert "novels" in out


@pytest.mark.parametrize(
    ("verb", "more", "said"),
    [
        ("prepare", [], "unchanged"),
        ("seed", [], "it stands there"),
        ("branch", ["expert=new", "domain=novels"], "posterior of bible"),
        ("branch", ["expert=new", "domain=novels", "weights={bible: 1}"], "given weights"),
        ("branch", ["expert=new", "domain=novels", "branch=copy"], "copy seed"),
        ("merge", ["expert=bible"], "it stands there"),
        ("average", ["weights=argmax", "domain=novels"], "argmax-novels"),
        ("discover", ["discover.k=3"], "4 sources"),
        ("cancel", ["expert=bible"], "stop the job of bible"),
        ("score", [], "shards"),
        ("eval", [], "writes"),
        ("average", [], "uniform weights over bible"),
        ("average", ["weights={bible: 2}"], "given weights over bible"),
        ("generate", ["prompt=In the, beginning"], "3 of 3 experts under a uniform prior"),
        ("run", [], "train-speeches"),
        ("run", ["run.rounds=[]", "run.domains=[bible]"], "score-bible"),
        ("ls", [], "only reads"),
        ("seed", ["forest=/nowhere/forest"], "24 steps, 12,288 tokens"),
        ("run", ["forest=/nowhere/forest"], "posterior of bible, code_python"),
    ],
)
def test_dry_run_says_it_and_writes_nothing(capsys, words, tmp_path, grown, verb, more, said):
    before = tree(tmp_path) | tree(grown[0].data.out)
    code, out, err = run(capsys, verb, "--dry-run", *words, *more)
    assert code == 0, err
    assert said in out
    assert tree(tmp_path) | tree(grown[0].data.out) == before


def test_dry_run_of_a_branch_in_the_making(capsys, words):
    assert run(capsys, "branch", *words, "expert=new", "domain=bible", "branch=copy")[0] == 0
    assert "12 steps" in run(capsys, "train", "--dry-run", *words, "expert=new")[1]
    assert run(capsys, "merge", "--dry-run", *words, "expert=new")[0] == 2
    assert run(capsys, "train", *words, "expert=new")[0] == 0
    assert "it is trained" in run(capsys, "train", "--dry-run", *words, "expert=new")[1]
    assert "move it to" in run(capsys, "merge", "--dry-run", *words, "expert=new")[1]


def text_files(**files):
    """Make a folder of domains from {path with __ for /: content}."""

    def build(root):
        for name, content in files.items():
            path = root / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return build


GOOD = b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n'
BAD_INPUT = {
    "unknown verb": (["trian"], "did you mean 'train'?"),
    "unknown flag": (["ls", "--jsno"], "did you mean '--json'?"),
    "unknown key": (["ls", "trainer.lrr=1"], "did you mean 'trainer.lr'?"),
    "unknown section": (["ls", "trainr.lr=1"], "no key 'trainr.lr'"),
    "not key=value": (["ls", "law"], "wanted key=value"),
    "unknown bundle": (["ls", "model=picco"], "did you mean 'pico'?"),
    "unknown experiment": (["run", "experiment=dmo"], "did you mean 'demo'?"),
    "wrong type": (["ls", "trainer.lr=fast"], "trainer.lr=fast: wanted a positive number, or find"),
    "not a whole number": (["ls", "trainer.steps=1.5"], "trainer.steps"),
    "negative rate": (["ls", "trainer.lr=-1"], "trainer.lr=-1: wanted a positive number"),
    "fewer than no steps": (["ls", "trainer.steps=-1"], "wanted 0 or more"),
    "fraction over 1": (["ls", "trainer.warmup=2"], "trainer.warmup"),
    "held out everything": (
        ["ls", "data.valid_fraction=0.8", "data.test_fraction=0.8"],
        "at most 0.9",
    ),
    "unknown prior": (["eval", "ensemble.prior=cache"], "did you mean 'cached'?"),
    "unknown branch": (["branch", "expert=x", "branch=posterio"], "did you mean 'posterior'?"),
    "unknown weights": (["average", "weights=unifrom"], "did you mean 'uniform'?"),
    "negative weight": (["average", "weights={bible: -1}"], "weights.bible=-1"),
    "zero weights": (["average", "weights={bible: 0}"], "all weights are 0"),
    "weights of a stranger": (["average", "weights={bibel: 1}"], "no ELM 'bibel'"),
    "bad syntax": (["average", "weights={bible:"], "btm: "),
    "bad name": (["branch", "expert=../law"], "is no valid name"),
    "no expert": (["train"], "give expert=NAME"),
    "unknown expert": (["show", "expert=bibel"], "did you mean 'bible'?"),
    "unknown average": (["show", "average=unifrom"], "did you mean 'uniform'?"),
    "unknown branch folder": (["train", "expert=law"], "no branch 'law'"),
    "no forest": (["ls", "forest=/nowhere"], "plant one with: btm seed"),
    "unknown domain": (["branch", "expert=x", "domain=bibel"], "no domain 'bibel'"),
    "no suite": (["seed", "data.name=other"], "btm prepare"),
    "repeated domain": (["run", "run.rounds=[[bible],[bible]]"], "stands there twice"),
    "context too long": (["eval", "score.window=5000"], "positions for 1024"),
    "no such model": (["seed", "seed.from=/nowhere"], "no such folder"),
    "not a causal LM": (["seed", "forest=NEW", "model.config.model_type=lama"], "did you mean"),
    "missing config": (["seed", "forest=NEW", "model.file=/nowhere.json"], "No such file"),
    "no such GPU": (["train", "expert=x", "trainer.device=gpu"], "choose one of auto, cpu"),
    "a flag of another verb": (["prepare", "--detach"], "no flag '--detach' in btm prepare"),
    "a flag before the verb": (["--json", "ls"], "wanted btm <verb>"),
    "detached in this process": (["run", "cluster=debug", "--detach"], "cluster=local or slurm"),
    "a path of hydra's signs": (["ls", "forest=a(1)"], "no forest in a(1); plant one with"),
    "an empty path": (["ls", "forest="], "forest='': wanted a path"),
    "a sweep": (["ls", "trainer.lr=1e-4,2e-4"], "trainer.lr"),
    "a deleted key": (["ls", "~trainer.lr"], "give it a value: trainer.lr=VALUE"),
    "an ELM outside the forest": (["average", "weights={../averages/uniform: 1}"], "btm: "),
    "an ELM as a branch": (["train", "expert=bible"], "ELMs never change"),
    "a seed of unknown domains": (
        ["seed", "forest=NEW", "seed.domains=[bibel]"],
        "did you mean 'bible'?",
    ),
    "heads that do not fit": (
        ["seed", "forest=NEW", "model.config.num_attention_heads=3"],
        "multiple",
    ),
    "a width of text": (["seed", "forest=NEW", "model.config.hidden_size=abc"], "expected int"),
    "no width": (
        ["seed", "forest=NEW", "model.config.hidden_size=0"],
        "can be made of this config",
    ),
    "another's device": (["seed", "forest=NEW", "trainer.device=mps"], "trainer.device=cpu"),
    "a huge seed": (["ls", "trainer.seed=99999999999999999999"], "wanted 0 to 2³² - 1"),
    "a negative power": (["ls", "trainer.decay_power=-1"], "wanted a positive number"),
    "a decay of no steps": (["ls", "trainer.decay_share=0"], "wanted (0, 1]"),
    "thousands of threads": (["ls", "trainer.threads=100000"], "at most 1,024"),
    "a weight that forgets all": (["ls", "ensemble.beta=0"], "wanted (0, 1]"),
    "GPUs below zero": (["ls", "cluster.train.gpus=-1"], "cluster.train.gpus=-1: wanted 0 or more"),
    "a job of no nodes": (["ls", "cluster.seed.nodes=0"], "cluster.seed.nodes=0: wanted 1 or more"),
    "a round of nothing": (["run", "run.rounds=[[bible],[]]"], "run.rounds[1]=[]: wanted a domain"),
    "a planned stranger": (["run", "--dry-run", "run.rounds=[[bibel]]"], "did you mean 'bible'?"),
    "a planned branch of no domain": (["branch", "--dry-run", "expert=x"], "no domain 'x'"),
    "a planned copy of none": (
        ["branch", "--dry-run", "expert=x", "domain=bible", "branch=copy", "parent=bibel"],
        "no ELM 'bibel'",
    ),
    "a planned average for nothing": (
        ["average", "--dry-run", "average.method=greedy_soup"],
        "give domain=NAME",
    ),
    "another vocabulary": (["prepare", "data.vocab_size=600"], "data.name"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_changes_nothing(case, capsys, words, tmp_path, grown):
    command, said = BAD_INPUT[case]
    command = [word.replace("NEW", str(tmp_path / "new")) for word in command]
    if "mps" in "".join(command) and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    before = tree(tmp_path) | tree(grown[0].data.out)
    code, out, err = run(capsys, command[0], *words, *command[1:])
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("btm: ")
    assert out == ""
    assert tree(tmp_path) | tree(grown[0].data.out) == before


BAD_TEXT = {
    "no folder": (lambda root: None, "data.root"),
    "no domains": (lambda root: root.mkdir(), "no domain"),
    "not JSON": (
        text_files(law__train_dot_jsonl=GOOD + b"oops\n", law__valid_dot_jsonl=GOOD),
        "jsonl",
    ),
    "missing split": (text_files(law__valid_dot_jsonl=GOOD, law__test_dot_jsonl=GOOD), "no train"),
    "broken UTF-8": (text_files(law_dot_txt=b"good\n\nbad \xff\xfe\n"), "law.txt"),
    "broken line": (text_files(law_dot_jsonl=GOOD + b'{"text": 1}\n'), "law.jsonl:4"),
    "empty domain": (text_files(law_dot_txt=b"  \n"), "law"),
    "bad gzip": (text_files(**{"law_dot_jsonl_dot_gz": b"\x1f\x8bnonsense"}), "law.jsonl.gz"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text_is_one_line_and_writes_nothing(case, capsys, tmp_path):
    build, said = BAD_TEXT[case]
    build(tmp_path / "texts")
    words = [
        "data=folder",
        "data.name=mine",
        f"data.root={tmp_path / 'texts'}",
        f"data.out={tmp_path / 'data'}",
    ]
    code, _, err = run(capsys, "prepare", *words)
    assert code == 2, err
    assert said in err
    assert err.strip().splitlines()[-1].startswith("btm: ")
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_folder_needs_a_root(capsys):
    code, _, err = run(capsys, "prepare", "data=folder")
    assert code == 2
    assert "data.root" in err


def test_debug_shows_the_traceback(words):
    from btm.errors import UserError

    with pytest.raises(UserError):
        main.main(["show", *words, "expert=none", "--debug"])


def test_no_room_is_one_line(capsys, words, monkeypatch, tmp_path):
    code, _, err = run(capsys, "ls", f"forest={tmp_path / ('x' * 300)}")
    assert code in (1, 2)
    assert err.count("\n") == 1


DAMAGE = {
    "forest.json": ("forest/forest.json", "{}", ["ls"]),
    "a forest.json of another kind": ("forest/forest.json", '{"schema": "x"}', ["ls"]),
    "a card": ("forest/elms/bible/card.json", "{}", ["show", "expert=bible"]),
    "meta.json": ("data/smoke/bible/meta.json", "{}", ["eval"]),
    "meta.json, prepared again": ("data/smoke/bible/meta.json", "[1]", ["prepare"]),
    "origin.json": ("data/smoke/tokenizer/origin.json", "{}", ["prepare"]),
    "branch.json": ("forest/branches/x/branch.json", "{}", ["train", "expert=x"]),
    "trained.json": ("forest/branches/x/trained.json", "[]", ["merge", "expert=x"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_in_one_line(case, capsys, words, tmp_path, grown):
    file, content, command = DAMAGE[case]
    shutil.copytree(grown[0].data.out, tmp_path / "data")
    (tmp_path / "forest/branches/x").mkdir(parents=True)
    origin = {"domains": ["bible"], "parents": {}, "method": "none", "estimator": ""}
    (tmp_path / "forest/branches/x/branch.json").write_text(json.dumps(origin))
    (tmp_path / file).write_text(content)
    code, _, err = run(capsys, command[0], *words, f"data.out={tmp_path / 'data'}", *command[1:])
    assert code == 2
    assert err.count("\n") == 1
    assert (tmp_path / file).parent.name in err


def test_strangers_in_the_forest_are_no_elms(capsys, words, tmp_path):
    (tmp_path / "forest/elms/notes.txt").touch()
    (tmp_path / "forest/elms/empty").mkdir()
    (tmp_path / "forest/branches/empty").mkdir(parents=True)
    code, out, err = run(capsys, "ls", *words)
    assert (code, err) == (0, "")
    assert "notes" not in out and "empty" not in out


def test_a_name_that_leads_elsewhere_is_no_elm(copy):
    forest = Forest(copy().forest_root)  # the shared one would keep the average
    publish.average(forest, "elsewhere", {"bible": 1.0})
    assert "../averages/elsewhere" not in forest
    assert "bible\n" not in forest


def test_dry_run_of_a_cycle_tells_what_it_takes(capsys, words, tmp_path):
    for expert in ("bible", "code_python", "speeches"):
        shutil.rmtree(tmp_path / "forest/elms" / expert)
    more = ["run.rounds=[[bible],[code_python,speeches]]", "branch=uniform"]
    code, out, _ = run(capsys, "run", "--dry-run", "--json", *words, *more)
    assert code == 0
    rows = {row["job"]: row for row in json.loads(out)}
    train = rows["train-bible"]
    assert train["parents"] == "seed 1"
    assert train["tokens"] > 0 < train["flops"]
    assert (
        train["seconds"] > 0 < train["disk bytes"]
    )  # nothing was measured yet, but the seed was trained
    assert rows["all"]["tokens"] == 3 * train["tokens"]
    assert rows["all"]["seconds"] == pytest.approx(3 * train["seconds"])
    out = run(
        capsys, "run", "--dry-run", "--json", *words, *more, "cluster=slurm", "cluster.parallel=3"
    )[1]
    assert json.loads(out)[-1]["seconds"] == pytest.approx(train["seconds"])


def test_a_dictionary_takes_keys_that_nobody_knew():
    assert compose.compose(
        ["cluster=slurm", "cluster.extra={reservation: night}"]
    ).cluster.extra == {"reservation": "night"}
