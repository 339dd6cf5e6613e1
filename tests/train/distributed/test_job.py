"""Two gloo processes against one: the same losses and weights, resumed or not, and nothing that
others could reach.
"""

import json
import os
import shutil
import signal
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from folders import uncovered_children
from launch.processes import children
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from btm import steps
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest
from btm.report import Reporter
from btm.train.distributed import job
from btm.train.loop import TrainingStoppedError

pytestmark = pytest.mark.slow

STEPS, EVERY = 9, 3
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}  # as /proc/net has 127.0.0.1 and ::1


class Watcher(Reporter):
    """Does something at a step; what that returns says whether to stop."""

    def __init__(self, at=0, do=lambda: False):
        self.at, self.do = at, do

    def pulse(self, step):
        return step == self.at and bool(self.do())


def ranks():
    """{rank: process} of the training that this process has started."""
    found = {}
    for pid in children(os.getpid()):
        if b"btm.train.distributed.rank" in Path(f"/proc/{pid}/cmdline").read_bytes():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found[next(int(word[5:]) for word in environment if word.startswith(b"RANK="))] = pid
    return found


def listening(pid):
    """Addresses, as /proc/net has them, at which a process takes connections."""
    links = []
    with suppress(FileNotFoundError):  # it ended meanwhile, as what asks the system something does
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(str(link.readlink()))
    own = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own}


@pytest.fixture(scope="module")
def planted(grown, workspace, tmp_path_factory):
    """A function that gives a configuration and a fresh copy of one untrained branch."""
    origin = tmp_path_factory.mktemp("origin") / "forest"
    shutil.copytree(grown[0].forest_root, origin)
    words = [
        *workspace,
        "branch=copy",
        f"trainer.steps={STEPS}",
        f"trainer.checkpoint_every={EVERY}",
        "trainer.valid_every=4",
        "trainer.micro_batch_size=2",
        "trainer.precision=fp32",
        "trainer.threads=2",
    ]
    steps.branch(compose([*words, f"forest={origin}"]), "new", "bible")

    def plant(*more, like=None):
        root = tmp_path_factory.mktemp("copy") / "forest"
        shutil.copytree(like or origin, root)
        return compose([*words, f"forest={root}", *more])

    return plant


TOGETHER = {
    "ddp": ["cluster.gpus_per_expert=2"],
    "fsdp": ["cluster.gpus_per_expert=2", "trainer.parallel=fsdp"],
}


def outcome(config):
    """Losses by step, valid nats, weights and the result of the trained branch."""
    folder = Path(config.forest_root) / "branches" / "new"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = torch.tensor([line["loss"] for line in lines])
    nats = [line["valid_nats"] for line in lines if line["valid_nats"]]
    return (
        losses,
        nats,
        load_file(folder / "model.safetensors"),
        json.loads((folder / "trained.json").read_text()),
    )


@pytest.fixture(scope="module")
def alone(planted):
    """What one process comes to."""
    config = planted()
    steps.train(config, "new")
    return outcome(config)


@pytest.fixture(scope="module")
def unbroken(planted):
    """A function that gives what two processes come to, what they listened at, and the
    configuration.
    """
    made = {}

    def run(parallel):
        if parallel not in made:
            config, heard = planted(*TOGETHER[parallel]), {}

            def look():
                heard.update({pid: listening(pid) for pid in children(os.getpid())})

            # What is fsdp's alone tests/train/distributed/test_trainee.py covers in one process.
            with nullcontext() if parallel == "ddp" else uncovered_children():
                steps.train(config, "new", Watcher(2, look))
            made[parallel] = (config, outcome(config), heard)
        return made[parallel]

    return run


def assert_close(found, wanted):
    assert len(found[0]) == STEPS
    assert torch.allclose(found[0], wanted[0], atol=1e-5, rtol=0)
    assert found[1] == pytest.approx(wanted[1], abs=1e-5)
    assert all(torch.allclose(found[2][name], wanted[2][name], atol=1e-6) for name in wanted[2])


def assert_same(found, wanted):
    assert torch.equal(found[0], wanted[0]) and found[1] == wanted[1]
    assert all(torch.equal(found[2][name], wanted[2][name]) for name in wanted[2])
    assert found[3]["exact"] and found[3]["notes"] == wanted[3]["notes"]


def checkpoints(config):
    return sorted(
        path.name for path in (Path(config.forest_root) / "branches" / "new").glob("checkpoint-*")
    )


@pytest.mark.traced
@pytest.mark.parametrize("parallel", TOGETHER)
def test_two_processes_come_to_what_one_comes_to(alone, unbroken, parallel):
    _, found, _ = unbroken(parallel)
    assert_close(found, alone)
    for key in ("steps", "tokens", "flops", "data", "exact", "schedule", "optimizer"):
        assert found[3][key] == alone[3][key]
    assert f"trained by 2 processes together ({parallel})" in found[3]["notes"][-1]


def test_nobody_else_can_reach_them(unbroken):
    _, _, heard = unbroken("ddp")
    assert len(heard) >= 3, "torchrun, two ranks, and what they forked just then"
    assert [bool(addresses) for addresses in heard.values()].count(True) == 2, (
        "gloo listens, torchrun does not"
    )
    assert set().union(*heard.values()) <= LOOPBACK


def test_the_elm_is_like_any_other(unbroken, tmp_path):
    config, _, _ = unbroken("fsdp")
    copied = shutil.copytree(config.forest_root, tmp_path / "forest")
    config.forest, config.merge.force = str(copied), True
    elm = steps.merge(config, "new")
    model = AutoModelForCausalLM.from_pretrained(elm.path)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in Forest(copied)["seed"].load().named_parameters()
    }
    assert "trained by 2 processes together (fsdp)" in elm.card.notes[-1]
    assert not [
        path
        for path in elm.path.rglob("*")
        if path.suffix in (".pt", ".bin", ".metadata", ".distcp")
    ]


def test_a_killed_rank_ends_all_and_the_resumed_training_equals_the_unbroken(planted, unbroken):
    config = planted(*TOGETHER["ddp"])
    running = {}

    def kill():
        running.update(ranks())
        os.kill(running[1], signal.SIGKILL)

    died = pytest.raises(job.RankDiedError, match="rank 1 of 2 was killed by SIGKILL")
    with uncovered_children(), died:
        steps.train(config, "new", Watcher(5, kill))
    assert len(running) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in running.values())
    assert checkpoints(config) == ["checkpoint-00000003"]
    files = {
        path.suffix
        for path in (Path(config.forest_root) / "branches/new/checkpoint-00000003").iterdir()
    }
    assert files == {".safetensors", ".json"}
    with uncovered_children():
        steps.train(config, "new")
    assert_same(outcome(config), unbroken("ddp")[1])


@pytest.mark.traced
def test_a_signal_to_one_rank_stops_all_after_a_checkpoint(planted, unbroken):
    config = planted(*TOGETHER["fsdp"])
    with pytest.raises(TrainingStoppedError):
        steps.train(config, "new", Watcher(4, lambda: os.kill(ranks()[1], signal.SIGTERM)))
    stopped = int(checkpoints(config)[-1][-1])
    assert 4 <= stopped < STEPS
    steps.train(config, "new")
    assert_same(outcome(config), unbroken("fsdp")[1])


def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(planted, alone):
    config = planted()
    with pytest.raises(TrainingStoppedError):
        steps.train(config, "new", Watcher(2, lambda: True))
    together = planted(*TOGETHER["fsdp"], like=config.forest_root)
    with pytest.raises(TrainingStoppedError):
        steps.train(together, "new", Watcher(4, lambda: True))
    assert checkpoints(together)[-1] > "checkpoint-00000003"
    last = planted(like=together.forest_root)
    steps.train(last, "new")
    found = outcome(last)
    assert_close(found, alone)
    assert not found[3]["exact"]
    notes = [note for note in found[3]["notes"] if "processes" in note]
    assert (
        "processes 2 (fsdp), begun with 1" in notes[0]
        and "processes 1, begun with 2 (fsdp)" in notes[1]
    )


def test_a_mistake_is_told_as_one_process_would_tell_it(planted):
    config = planted(*TOGETHER["ddp"], "trainer.carry=continue", "trainer.optimizer=adamw8bit")
    begun = time.monotonic()
    with pytest.raises(UserError, match="carry=continue: branch 'new' cannot"):
        steps.train(config, "new")
    assert time.monotonic() - begun < 60 and not ranks()
