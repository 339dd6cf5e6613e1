"""An expert of prompted data in a forest of text: prepared, trained in every way, scored, mixed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import questions
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.forest import Forest
from btm.forest.suites import open_suite
from btm.report import Reporter
from btm.steps import score_cache
from btm.train.loop import TrainingStoppedError

pytestmark = pytest.mark.slow


class Stopper(Reporter):
    """Stops a training after a step."""

    def __init__(self, at):
        self.at = at

    def pulse(self, step):
        return step == self.at


@pytest.fixture(scope="module")
def planted(grown, workspace, tmp_path_factory):
    """A function that gives settings and a fresh copy of the forest with one untrained branch."""
    root = tmp_path_factory.mktemp("asked")
    questions.write(root / "texts" / "asked.jsonl", questions.rows())
    shutil.copytree(grown[0].forest_root, root / "forest")
    words = [
        *workspace,
        f"data.root={root / 'texts'}",
        f"data.out={Path(grown[0].data.out)}",
        *("data.name=asked", "data.format=prompted", "trainer.seq_len=160", "score.window=160"),
        *("trainer.steps=4", "trainer.batch_size=4", "trainer.checkpoint_every=2"),
        *("trainer.precision=fp32", "trainer.threads=2", "trainer.carry=fresh", "branch=copy"),
    ]
    config = compose([*words, f"forest={root / 'forest'}"])
    steps.prepare(config)
    steps.branch(config, "asked", "asked")

    def plant(*more):
        target = tmp_path_factory.mktemp("copy") / "forest"
        shutil.copytree(root / "forest", target)
        return compose([*words, f"forest={target}", *more])

    return plant


def outcome(config):
    """The result of the training, its losses and weights."""
    folder = Path(config.forest_root) / "branches" / "asked"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    said = json.loads((folder / "trained.json").read_text())
    return said, [line["loss"] for line in lines], load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def alone(planted):
    config = planted()
    steps.train(config, "asked")
    return config, outcome(config)


def test_a_stopped_training_goes_on_as_the_unbroken_one(planted, alone):
    config = planted()
    with pytest.raises(TrainingStoppedError):
        steps.train(config, "asked", Stopper(2))
    steps.train(config, "asked")
    said, losses, weights = outcome(config)
    assert said["exact"] and losses == alone[1][1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in alone[1][2].items())


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_come_to_what_one_comes_to(planted, alone, parallel):
    config = planted(
        f"trainer.parallel={parallel}", "cluster.gpus_per_expert=2", "trainer.micro_batch_size=1"
    )
    steps.train(config, "asked")
    said, losses, weights = outcome(config)
    wanted, losses_alone, weights_alone = alone[1]
    assert losses == pytest.approx(losses_alone, abs=1e-5)
    # At a rate of 3e-3 Adam makes a step of the rounding of a gradient that is nearly 0.
    assert all(torch.allclose(weights[n], t, atol=1e-4) for n, t in weights_alone.items())
    assert (said["tokens"], said["flops"]) == (wanted["tokens"], wanted["flops"])
    assert said["tokens"] < 4 * 4 * 160


def test_a_sparse_expert_learns_from_answers_too(planted):
    config = planted("trainer.delta_density=0.1", "trainer.delta_every=2")
    with pytest.raises(TrainingStoppedError):
        steps.train(config, "asked", Stopper(2))
    steps.train(config, "asked")
    said, losses, weights = outcome(config)
    config = planted("trainer.delta_density=0.1", "trainer.delta_every=2")
    steps.train(config, "asked")
    assert outcome(config)[1] == losses and said["exact"] and said["delta"]["nonzeros"]
    assert all(torch.equal(weights[n], t) for n, t in outcome(config)[2].items())


def test_it_is_scored_merged_and_mixed_on_its_answers(alone, tmp_path):
    config = alone[0]
    config.merge.force = True
    config.score.max_tokens = 0
    elm = steps.merge(config, "asked")
    forest, suite = Forest(config.forest_root), open_suite(config)
    valid, test = suite.shard("asked", "valid"), suite.shard("asked", "test")
    # The loss on the card is that of answers, each after its own prompt alone.
    model = AutoModelForCausalLM.from_pretrained(elm.path)
    assert elm.card.valid_nats == pytest.approx(nats_of(model, valid), abs=1e-5)
    assert elm.card.tokens == outcome_of(elm)["tokens"]

    config.eval.domains = ["asked", "bible"]
    config.ensemble.rule, config.ensemble.prior = "bayes", "uniform"
    entry = steps.eval_forest(config)["shards"]["asked/test"]
    facts = test.meta["splits"]["test"]
    assert (entry["tokens"], entry["bytes"]) == (facts["predicted"], facts["bytes"])
    assert entry["experts"]["asked"]["nats_per_token"] == pytest.approx(
        nats_of(model, test), abs=1e-5
    )
    # The ensemble weighs experts by prompts as well, and begins anew with every example.
    members = forest.experts([])
    scores = score_cache.stack(score_cache.scores_of(config, forest), test, members)
    flat = scores.reshape(len(members), -1)[:, : test.n_tokens].astype(np.float64)
    nats, begin = 0.0, 0
    for n in test.documents[:, 0].tolist():
        own, mask = flat[:, begin : begin + n], test.mask[begin : begin + n] != 0
        before = np.cumsum(own, axis=1) - own
        joint = np.logaddexp.reduce(before + own, axis=0) - np.logaddexp.reduce(before, axis=0)
        nats, begin = nats - joint[mask].sum(), begin + n
    assert entry["ensemble"]["nats_per_token"] == pytest.approx(nats / facts["predicted"], abs=1e-5)


def outcome_of(elm):
    return json.loads((elm.path / "card.json").read_text())


def nats_of(model, shard):
    """Mean nats of the answers of a shard, by transformers, an example at a time."""
    nats = tokens = begin = 0
    for n in shard.documents[:, 0].tolist():
        ids = torch.tensor(shard.tokens[begin : begin + n].astype("int64"))[None]
        mask = torch.tensor(shard.mask[begin : begin + n])[None]
        labels = ids.masked_fill(mask == 0, -100)
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += count * float(model(input_ids=ids, labels=labels).loss)
        tokens, begin = tokens + count, begin + n
    return nats / tokens


def test_what_takes_text_alone_says_so(planted, capsys):
    config = planted()
    own = [f"forest={config.forest_root}", f"data.out={config.data.out}", "data.name=asked"]
    asked = ["distil.domains=[asked]", "student=s"]
    assert main(["distil", *own, f"data.root={config.data.root}", *asked]) == 2
    told = capsys.readouterr().err
    assert "asked is prompted data (data.format), which btm distil does not take" in told
