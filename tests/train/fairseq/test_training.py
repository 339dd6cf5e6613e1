"""fairseq itself trains a seed and experts: a whole cycle, stops, deaths and what cannot be."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq_models import EVALUATION, PYTHON, fairseq
from launch.processes import btm, finish, until
from safetensors.torch import load_file, save_file

from btm import steps
from btm.cli.compose import compose
from btm.data import binarised
from btm.data.batches import Batches
from btm.ensemble.score import mean_nats
from btm.errors import UserError
from btm.fairseq import from_hugging_face
from btm.forest import Forest
from btm.report import Reporter
from btm.steps import score_cache
from btm.train.fairseq import training
from btm.train.loop import TrainingFailedError, TrainingStoppedError
from btm.train.schedule import Schedule

STEPS = 14
# fairseq takes seconds to start, minutes on a busy machine, nine times.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def words(texts, tmp_path_factory):
    """Overrides: a tiny model, the text of four domains, fairseq's own Python."""
    if not PYTHON.exists() and not os.environ.get("CI"):
        pytest.skip("no fairseq here: scripts/fairseq")
    root = tmp_path_factory.mktemp("backend")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return [
        "experiment=fairseq",
        f"fairseq.python={PYTHON}",
        f"data.root={texts}",
        f"data.out={root / 'data'}",
        f"forest={root / 'forest'}",
        "data.vocab_size=320",
        "data.tokenizer_bytes=100_000",
        *(f"model.config.{key}={value}" for key, value in sizes.items()),
        "model.config.hidden_dropout_prob=0.1",  # which a resumed training must draw alike
        "trainer.lr=1e-2",
        f"trainer.steps={STEPS}",
        "trainer.batch_size=6",
        "trainer.micro_batch_size=3",
        "trainer.seq_len=32",
        "trainer.checkpoint_every=4",
        "trainer.log_every=1",
        "trainer.threads=1",
        "seed.steps=20",
        "score.max_tokens=512",
        "run.domains=[bible,speeches]",
        "cluster=debug",
    ]


@pytest.fixture(scope="module")
def grown(words):
    """The configuration of a cycle that fairseq has trained, and its evaluation."""
    config = compose(words)
    return config, steps.run(config)


@pytest.fixture
def branch(grown, words):
    """A function that begins another expert of the Bible, as `bible` was begun, and gives its
    configuration.
    """

    def begin(name, *more):
        config = compose([*words, *more])
        steps.branch(config, name, "bible", among=["seed"])
        return config

    return begin


@pytest.fixture
def forest(grown):
    return Forest(grown[0].forest_root)


def lines(elm):
    return [json.loads(line) for line in (elm.path / "metrics.jsonl").read_text().splitlines()]


def test_a_cycle_is_trained_by_fairseq(grown, forest):
    evaluation = grown[1]
    assert forest.names() == ["bible", "seed", "speeches"]
    for elm in forest.elms():
        trained = json.loads((elm.path / "trained.json").read_text())
        assert (trained["backend"], trained["fairseq"]["fairseq"]) == ("fairseq", "0.12.3")
        assert "--update-freq=2" in trained["fairseq"]["arguments"]
        assert elm.card.notes == ["trained by fairseq 0.12.3"]
        n_steps = 20 if elm.name == "seed" else STEPS
        assert (elm.card.steps, elm.card.tokens) == (n_steps, n_steps * 6 * 32)
        assert elm.card.exact
        assert [line["step"] for line in lines(elm)] == list(range(1, n_steps + 1))
        assert not [
            p.name for p in elm.path.iterdir() if "checkpoint" in p.name or "fairseq" in p.name
        ]
    losses = [line["loss"] for line in lines(forest["seed"])]
    assert np.log(320) * 0.9 < losses[0] < np.log(320) * 1.2
    assert losses[-1] < losses[0] - 0.5
    for name in ("bible", "speeches"):
        card = forest[name].card
        assert card.valid_nats < card.parent_valid_nats["seed"]
    assert evaluation["shards"]["bible/test"]["novel"] is False


def test_the_learning_rate_is_the_schedule(grown, forest):
    """fairseq tells the rate of the next update; it warms up from 0, a step behind btm's."""
    schedule = Schedule.of(grown[0].trainer, horizon=STEPS)
    for line in lines(forest["bible"]):
        if schedule.warmup_steps <= line["step"] < STEPS:
            assert line["lr"] == pytest.approx(schedule.lr(line["step"]), rel=1e-5)


def test_the_result_loads_in_transformers_as_the_forest_has_it(forest):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(forest["bible"].path)
    tokenizer = AutoTokenizer.from_pretrained(forest["bible"].path)
    assert tokenizer("In the beginning")["input_ids"][0] > 3
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    before, after = (
        json.loads((forest[n].path / "config.json").read_text()) for n in ("seed", "bible")
    )
    assert before == after
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_its_loss_is_that_of_fairseq_eval_lm(grown, forest, tmp_path):
    config, elm = grown[0], forest["speeches"]
    suite = steps.open_suite(config)
    binarised.write(suite, "speeches", tmp_path / "data")
    from_hugging_face(elm.path, tmp_path)
    job = (
        "eval",
        "eval-lm",
        tmp_path / "data",
        tmp_path / "checkpoint_best.pt",
        "valid",
        *EVALUATION,
    )
    found = fairseq(tmp_path, [job])["eval"]["loss"] * np.log(2)
    whole = compose([*_overrides(config), "score.max_tokens=0"])
    shard = suite.shard("speeches", "valid")
    (path,) = score_cache.score_missing(
        whole, forest, elm.path, elm.card.sha256, [shard], Reporter()
    )
    assert mean_nats(np.load(path), shard.n_tokens) == pytest.approx(found, abs=1e-5)


def _overrides(config):
    return [
        "experiment=fairseq",
        f"fairseq.python={PYTHON}",
        f"data.out={config.data.out}",
        f"forest={config.forest_root}",
        "trainer.seq_len=32",
    ]


class Stops(Reporter):
    """Asks for a stop once a step is done."""

    def __init__(self, step):
        self.step = step

    def pulse(self, step):
        return step >= self.step


def test_a_stop_saves_and_what_goes_on_ends_as_if_unbroken(branch, forest):
    config = branch("stopped")
    # At the first step, since on a busy machine fairseq has done many more before it is told.
    with pytest.raises(TrainingStoppedError, match=r"stopped after step ([1-9]|1[0-3])$"):
        steps.train(config, "stopped", Stops(1))
    place = forest.get_branch("stopped").path
    assert 1 <= len(list(place.glob("checkpoint-*/fairseq.pt"))) <= 2
    assert not list(place.glob(".tmp-*"))
    with pytest.raises(
        UserError, match=r"half trained with other settings \(peak was 0.01, now 0.1"
    ):
        steps.train(compose([*_all(config), "trainer.lr=0.1"]), "stopped")
    with pytest.raises(
        UserError, match=r"half trained with other settings \(backend was fairseq, now btm"
    ):
        steps.train(compose([*_all(config), "trainer.backend=btm"]), "stopped")
    made = steps.train(config, "stopped")
    assert (made.result["steps"], made.result["exact"]) == (STEPS, True)
    assert steps.merge(config, "stopped").card.sha256 == forest["bible"].card.sha256


def _all(config):
    """The words that give this configuration's training again."""
    trainer = {
        key: getattr(config.trainer, key)
        for key in ("steps", "batch_size", "checkpoint_every", "lr")
    }
    trainer |= {"micro_batch_size": 3, "threads": 1}
    return [*_overrides(config), *(f"trainer.{key}={value}" for key, value in trainer.items())]


def running(pattern):
    """The processes whose command line holds a text."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if pattern.encode() in (place / "cmdline").read_bytes():
                found.append(place.name)
    return found


def test_a_job_that_is_killed_takes_fairseq_with_it_and_is_gone_on_with(branch, forest, words):
    config = branch("killed")
    home = forest.root / "branches" / "killed"
    job = btm("train", "expert=killed", *words)
    until(lambda: list(home.parent.glob("killed~*/checkpoint-00000004")))
    assert running(f"{home}~")
    job.send_signal(signal.SIGKILL)
    finish(job, code=None)
    until(lambda: not running(f"{home}~"), seconds=5)
    newest = max(home.parent.glob("killed*/checkpoint-*"))
    with (newest / training.FILE).open("r+b") as handle:
        handle.truncate(1000)
    made = steps.train(config, "killed")
    assert made.result["steps"] == STEPS
    assert steps.merge(config, "killed").card.sha256 == forest["bible"].card.sha256


def test_a_nan_ends_the_training(branch, forest):
    config = branch("nan")
    file = forest.get_branch("nan").path / "model.safetensors"
    tensors = load_file(file)
    tensors["biogpt.layers.0.fc1.weight"] *= 1e38
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        TrainingFailedError, match=r"'nan' by fairseq ended at step 1: .*Nan/Inf.*fairseq.log"
    ):
        steps.train(config, "nan")
    assert "FloatingPointError" in (forest.get_branch("nan").path / "fairseq.log").read_text()


def test_an_option_that_fairseq_has_not_is_told_by_fairseq(branch):
    config = branch("option", "fairseq.options={no-such-thing: 3}")
    with pytest.raises(
        TrainingFailedError, match=r"exit code 2 \| .*unrecognized arguments: --no-such-thing=3"
    ):
        steps.train(config, "option")


def test_an_option_that_ends_it_early_is_told(branch):
    config = branch("early", "fairseq.options={stop-min-lr: 0.9}")
    with pytest.raises(
        UserError, match=r"ended by itself after 0 of 14 updates: leave out the option"
    ):
        steps.train(config, "early")


def test_a_mix_shows_each_domain_alike(grown, tmp_path):
    """In whole steps: as many tokens of each as the largest has, and a few more from its
    beginning.
    """
    suite = steps.open_suite(grown[0])
    shards = [suite.shard(domain, "train") for domain in suite.training_domains()]
    training._write_data(tmp_path, Batches(shards, 32, 6, 0))
    found = [np.fromfile(tmp_path / f"train{i or ''}.idx", "u1") for i in range(len(shards))]
    lines = [int(content[18:26].view("<u8")[0]) for content in found]
    sizes = [int(c[26 : 26 + 4 * n].view("<i4").sum()) for c, n in zip(found, lines, strict=True)]
    most = max(shard.n_tokens for shard in shards)
    assert len(set(sizes)) == 1 and most <= sizes[0] < most + 6 * 32
    assert sum(sizes) % (6 * 32) == 0
    assert len({shard.n_tokens for shard in shards}) == 3


def refused(words, *more):
    with pytest.raises(UserError) as caught:
        steps.seed(compose([*words, *more]))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_is_refused_before_anything_begins(grown, words, tmp_path):
    config = grown[0]
    words = [*_overrides(config), f"forest={tmp_path / 'forest'}"]
    other = ["data.name=other", "data.special_tokens=endoftext", f"data.root={config.data.root}"]
    steps.prepare(compose([*words, *other, "data.vocab_size=300"]))
    assert "nowhere: no program that can be run: make an environment" in refused(
        words, "fairseq.python=nowhere"
    )
    assert "there is no fairseq in it" in refused(words, f"fairseq.python={sys.executable}")
    assert "there is no fairseq in" in refused(words, "fairseq.python=null")
    llama = refused(words, "model=tiny")
    assert "model_type 'llama'; fairseq has equivalents of" in llama
    assert "give model=fairseq_lm or model=opt" in llama
    assert "data.special_tokens=fairseq" in refused(words, *other)
    assert "fairseq.options.lr: give trainer.lr" in refused(words, "fairseq.options={lr: 3}")
    assert not (tmp_path / "forest").exists()
