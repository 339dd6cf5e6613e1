"""What a command needs is looked at first: `run` and `--dry-run` refuse it in the same line, and
write nothing.
"""

import importlib.abc
import re
import shutil
import subprocess
import sys

import pytest
import torch
from folders import tree

from btm.cli import main, preflight
from btm.cli.preflight.by_verb import CHECKS
from btm.cli.verbs import VERBS


class _AllBut(importlib.abc.MetaPathFinder):
    """Finds what the usual finders find, but for packages that are not to be installed."""

    def __init__(self, packages, finders):
        self.packages, self.finders = packages, finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)


@pytest.fixture
def hide(monkeypatch):
    def hide(*packages):
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [_AllBut(packages, list(sys.meta_path))])

    return hide


@pytest.fixture
def refused(capsys):
    """A function that runs a verb, also as --dry-run, and returns the one line that both print
    before anything.
    """

    def refused(verb, *words, place):
        before, lines = tree(place), set()
        for flag in ("--dry-run", "--json"):
            code = main.main([verb, flag, *words])
            lines.add(
                re.sub(r"[\d.]+ GB", "… GB", capsys.readouterr().err)
            )  # what is free comes and goes
            assert code == 2, lines
            assert tree(place) == before
        [line] = lines
        assert line.startswith("btm: ")
        assert line.count("\n") == 1
        return line

    return refused


@pytest.fixture
def cycle(texts, tmp_path):
    """The words of a cycle that has nothing yet, in this process."""
    return [
        "experiment=smoke",
        "cluster=debug",
        "trainer.steps=2",
        "seed.steps=2",
        f"data.root={texts}",
        f"data.out={tmp_path / 'data'}",
        f"forest={tmp_path / 'forest'}",
    ]


EXTRAS = {
    "bitsandbytes": (["trainer.optimizer=adamw8bit"], "[int8]'"),
    "tensorboard": (["trainer.mirrors=[tensorboard]"], "[tensorboard]'"),
    "wandb": (["trainer.mirrors=[wandb]"], "[wandb]'"),
    "mlflow": (["trainer.mirrors=[mlflow]"], "[mlflow]'"),
    "fairseq_cli": (["trainer=fairseq", "model=fairseq_lm"], "there is no fairseq in "),
}


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_extra(hide, refused, cycle, tmp_path, package):
    words, said = EXTRAS[package]
    hide(package)
    assert said in refused("run", *cycle, *words, place=tmp_path)


def test_a_missing_pyarrow(hide, refused, cycle, tmp_path):
    (tmp_path / "own" / "tables").mkdir(parents=True)
    (tmp_path / "own" / "tables" / "x.parquet").write_bytes(b"PAR1")
    hide("pyarrow")
    words = [*cycle, f"data.root={tmp_path / 'own'}"]
    for verb in ("run", "prepare", "discover"):
        assert "[parquet]'" in refused(verb, *words, place=tmp_path)


def test_a_missing_scikit_learn(hide, refused, cycle, tmp_path):
    hide("sklearn")
    words = [*cycle, f"discover.out={tmp_path / 'found'}"]
    assert "[discover]'" in refused("discover", *words, place=tmp_path)


def test_a_missing_server(hide, refused, cycle, tmp_path):
    hide("uvicorn")
    said = refused("serve", *cycle, place=tmp_path)
    assert "needs uvicorn" in said and "[serve]'" in said


def test_a_missing_ray_and_one_without_a_token(hide, refused, cycle, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    pytest.importorskip("ray")
    words = [*cycle, "serve.engine=ray", "serve.ray.address=192.0.2.1:6379"]
    assert "RAY_AUTH_MODE=token" in refused("serve", *words, place=tmp_path)
    said = refused("serve", *cycle, "serve.ray.replicas=3", place=tmp_path)
    assert "serve.engine=local: serve.ray has no effect here" in said
    hide("ray")
    said = refused("serve", *cycle, "serve.engine=ray", place=tmp_path)
    assert "needs Ray" in said and "[cluster]'" in said


def test_a_missing_harness(hide, refused, tmp_path):
    hide("lm_eval")
    assert "[eval]'" in refused("bench", f"forest={tmp_path}", place=tmp_path)


CYCLES = {
    "positions of the model": (
        ["trainer.seq_len=100000"],
        "trainer.seq_len=100000: the model has positions for 1024",
    ),
    "positions for scores": (
        ["score.window=5000"],
        "score.window=5000: the model has positions for 1024",
    ),
    "an architecture": (["model.config.model_type=lama"], "'lama' is no causal LM"),
    "a domain": (["run.rounds=[[bibel]]"], "did you mean 'bible'?"),
    "a domain of the seed": (["seed.domains=[bibel]"], "did you mean 'bible'?"),
    "a domain evaluated": (["eval.domains=[bibel]"], "did you mean 'bible'?"),
    "a domain twice": (["run.rounds=[[bible],[bible]]"], "a domain stands there twice"),
    "an expert mixed": (["ensemble.experts=[nobody]"], "ensemble.experts: no ELM 'nobody'"),
    "an expert averaged": (["average.experts=[nobody]"], "average.experts: no ELM 'nobody'"),
    "an expert scored": (["score.experts=[nobody]"], "score.experts: no ELM 'nobody'"),
    "a model beside it": (["models=[nobody]"], "models: no model 'nobody'"),
    "a base": (["average.method=ties", "average.base=nobody"], "average.base: no ELM 'nobody'"),
    "an expert's layers": (
        ["average.layers={mlp: {nobody: 1}}"],
        "average.layers: no ELM 'nobody'",
    ),
    "a parent": (["branch=copy", "parent=nobody"], "parent: no ELM 'nobody'"),
    "a parent that is yet to come": (["weights={speeches: 1}"], "weights: no ELM 'speeches'"),
    "a soup for no domain": (["average.method=greedy_soup"], "give domain=NAME"),
    "an average of so many": (
        ["average.method=slerp", "average.base=seed"],
        "average.method=slerp takes 1 models beside its base, and at the end of this cycle it "
        "would get 3",
    ),
    "a split for priors": (["eval.split=valid"], "would be measured on their own data"),
    "a router": (["ensemble=router"], "no router in "),
    "a model to import": (["seed.from=nowhere"], "seed.from=nowhere: no such folder"),
    "moments to continue": (["trainer.carry=continue", "seed.steps=0"], "seed.steps=0 leaves none"),
    "a peak to continue": (
        ["trainer.carry=continue", "seed.lr=0.004", "trainer.lr=0.002"],
        "seed.lr=0.004, and trainer.lr=0.002 asks for another",
    ),
    "a device": (["trainer.device=cuda:1"], "trainer.device=cuda:1: "),
    "cards": (
        ["cluster=local", "cluster.gpus=2", "cluster.cards=1"],
        "cluster.gpus=2: this machine has 1",
    ),
    "a card each": (
        ["cluster=local", "cluster.train.gpus_per_expert=2", "cluster.cards=1"],
        "cluster.gpus_per_expert=2: this machine has 1 GPUs",
    ),
    "memory": (
        ["cluster=local", "cluster.score.memory_gb=1e6"],
        "cluster.memory_gb=1e+06: this machine has ",
    ),
    "disk": (["model.config.hidden_size=65536"], "of disk at most"),
    "fairseq": (
        ["trainer=fairseq", "fairseq.python=nowhere"],
        "fairseq.python=nowhere: no program",
    ),
    "a seed to share": (["baseline=demix"], "begins with the forest's own seed"),
}


@pytest.mark.parametrize("case", CYCLES)
def test_what_a_later_job_needs(monkeypatch, refused, cycle, tmp_path, case):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # whatever cards this machine has
    words, said = CYCLES[case]
    if case == "a device" and torch.cuda.device_count() > 1:
        pytest.skip("there is such a device")
    assert said in refused("run", *cycle, *words, place=tmp_path)


@pytest.mark.parametrize("key", ["forest", "data.out"])
def test_a_place_that_is_none(refused, cycle, tmp_path, key):
    (tmp_path / "file").write_text("in the way")
    words = [*cycle, f"{key}={tmp_path / 'file' / 'x'}"]
    assert f"{key}={tmp_path / 'file'}" in refused("run", *words, place=tmp_path)


def test_slurm_is_not_asked_for_the_devices_of_its_nodes(capsys, cycle):
    words = [
        *cycle,
        "cluster=slurm",
        "trainer.device=cuda:1",
        "cluster.gpus=8",
        "cluster.memory_gb=1e6",
    ]
    assert main.main(["run", "--dry-run", *words]) == 0, capsys.readouterr().err


def test_a_local_job_sees_its_own_cards_alone(monkeypatch, refused, cycle, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = [*cycle, "cluster=local", "trainer.device=cuda:1"]
    assert "a job sees its own 1 of this machine's GPUs" in refused("run", *words, place=tmp_path)


VERB_NEEDS = {
    "seed": (["trainer.optimizer=adamw8bit"], "[int8]"),
    "train": (["trainer.optimizer=adamw8bit", "expert=new"], "[int8]"),
    "eval": (["score.window=5000"], "score.window=5000"),
    "score": (["score.window=5000"], "score.window=5000"),
    "compare": (["load.quantization=int8"], "load.quantization=int8 needs bitsandbytes: "),
    "generate": (["trainer.device=cuda:99", "prompt=x"], "trainer.device=cuda:99"),
    "export": (["expert=seed", "to={file}/x/y"], "is a file; wanted a folder"),
    "import": (["from=x", "forest={file}/x"], "is a file; wanted a folder"),
    "push": (["to=s4://bucket/forest"], "unknown scheme"),
    "pull": (["from=file:///x", "forest={file}/x"], "is a file; wanted a folder"),
    "paper": (["size=smoke", "paper.added=[bibel]"], "did you mean 'bible'?"),
}


@pytest.mark.parametrize("verb", VERB_NEEDS)
def test_single_verbs_look_first_too(hide, refused, workspace, grown, tmp_path, verb):
    (tmp_path / "file").write_text("in the way")
    shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    hide("bitsandbytes")
    words, said = VERB_NEEDS[verb]
    words = [word.format(file=tmp_path / "file") for word in words]
    assert said in refused(
        verb, *workspace, f"forest={tmp_path / 'forest'}", *words, place=tmp_path
    )


def test_a_standing_forest_is_asked_for_its_own_positions(refused, workspace, grown, tmp_path):
    shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    words = [
        *workspace,
        f"forest={tmp_path / 'forest'}",
        "model.config.max_position_embeddings=9999",
    ]
    assert "positions for 1024" in refused("run", *words, "trainer.seq_len=2000", place=tmp_path)


def test_a_seed_of_another_architecture_is_refused(refused, workspace, grown, tmp_path):
    shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    shutil.rmtree(tmp_path / "forest" / "elms")
    words = [*workspace, f"forest={tmp_path / 'forest'}", "model.config.hidden_size=32"]
    assert "has another architecture than the forest" in refused("run", *words, place=tmp_path)


def test_every_list_is_that_of_a_verb():
    assert set(preflight.VERBS) == set(CHECKS)
    assert CHECKS.keys() <= VERBS.keys()


def test_what_only_reads_does_not_wait_for_the_checks():
    code = "import sys; from btm.cli.main import main; main(['ls', 'forest=nowhere']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "btm.cli.preflight" in done.stdout.split()
    assert not {"btm.cli.preflight.by_verb", "btm.launch.local"} & set(done.stdout.split())
