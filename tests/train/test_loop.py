"""The loop: exact resume, schedules, the policy for optimizer state, and how it fails."""

import itertools
import json
import math
import random
import shutil
import signal
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from folders import ROOT
from launch.processes import Forked, btm, finish
from safetensors.torch import load_file

from btm import steps
from btm.cli.compose import compose
from btm.config.training import TrainerConfig
from btm.data.batches import Batches
from btm.errors import UserError
from btm.forest import Forest
from btm.models import causal_lm, configs, weights
from btm.system import lease
from btm.train import checkpoint, loop, optimizers, schedule
from btm.train.mirrors import Mirrors
from btm.train.training import Training


def training_words(workspace, forest):
    return [
        *workspace,
        f"forest={forest}",
        "trainer.steps=16",
        "trainer.checkpoint_every=3",
        "trainer.threads=2",
    ]


@pytest.fixture
def half_grown(grown, tmp_path):
    """Two copies of the forest, each with the same untrained branch."""
    import shutil

    roots = [tmp_path / "killed", tmp_path / "unbroken"]
    for root in roots:
        shutil.copytree(grown[0].forest_root, root)
    return roots


@pytest.mark.slow
def test_killed_three_times_equals_unbroken(workspace, half_grown):
    killed, unbroken = half_grown
    for root in half_grown:
        config = compose([*training_words(workspace, root), "branch=copy"])
        steps.branch(config, "new", "bible")
    finish(Forked("train", "expert=new", *training_words(workspace, unbroken)))

    chance = random.Random(0)
    home = killed / "branches" / "new"
    for at in sorted(chance.sample(range(2, 15), 3)):
        process = Forked("train", "expert=new", *training_words(workspace, killed))
        deadline = time.monotonic() + 90
        while not reached(home, at):
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        finish(process, code=-signal.SIGKILL)
        assert not (lease.find(home) / "trained.json").exists()
    finish(btm("train", "expert=new", *training_words(workspace, killed)))

    def content(root, name):
        return (root / "branches" / "new" / name).read_bytes()

    assert content(killed, "model.safetensors") == content(unbroken, "model.safetensors")
    losses = [
        [json.loads(line)["loss"] for line in content(r, "metrics.jsonl").splitlines()]
        for r in half_grown
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 16
    last = "checkpoint-00000016/optimizer.safetensors"
    assert content(killed, last) == content(unbroken, last)
    assert json.loads(content(killed, "trained.json"))["exact"]


def reached(home, step):
    try:
        lines = (lease.find(home) / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return False
    return bool(lines) and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step


def batches_of(config, domain="bible"):
    suite = steps.open_suite(config)
    t = config.trainer
    return Batches([suite.shard(domain, "train")], t.seq_len, t.batch_size, t.seed)


def run_training(config, folder, n=4, **changes):
    trainer = replace(config.trainer, **changes)
    plan = schedule.Schedule.of(trainer, horizon=n)
    return loop.train(Training(folder, batches_of(config), trainer, plan, n))


def test_gradient_accumulation_is_the_whole_batch(copy):
    config = copy("branch=copy")
    whole = steps.branch(config, "whole", "bible").path
    parts = steps.branch(config, "parts", "bible").path
    run_training(config, whole, precision="fp32")
    run_training(config, parts, micro_batch_size=3, precision="fp32")
    for a, b in zip(
        causal_lm.load_model(whole).parameters(),
        causal_lm.load_model(parts).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_other_settings_do_not_resume(copy):
    config = copy("branch=copy")
    made = steps.branch(config, "new", "bible").path
    run_training(config, made, checkpoint_every=2)
    with pytest.raises(
        UserError, match=r"half trained with other settings \(.*weight_decay was 0.1, now 0\)"
    ):
        run_training(config, made, weight_decay=0.0)


def test_other_text_does_not_resume(copy):
    config = copy("branch=copy")
    made = steps.branch(config, "new", "bible").path
    run_training(config, made, checkpoint_every=2)
    plan = schedule.Schedule.of(config.trainer, horizon=4)
    with pytest.raises(UserError, match="half trained on other text than train of novels has now"):
        loop.train(Training(made, batches_of(config, "novels"), config.trainer, plan, 4))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("parameters.safetensors", None),
        ("parameters.safetensors", b"x" * 100),
        ("optimizer.safetensors", b""),
        ("state.json", b"{}"),
        ("state.json", b"[]"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_to_do(copy, file, content):
    config = copy("branch=copy")
    made = steps.branch(config, "new", "bible").path
    run_training(config, made, checkpoint_every=2)
    damaged = checkpoint.latest(made)
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{damaged.name}.*not readable .*: delete {damaged.name} to go on"
    ):
        run_training(config, made, checkpoint_every=2)
    shutil.rmtree(damaged)
    assert run_training(config, made, checkpoint_every=2).exact


def test_another_thread_count_is_said_in_the_card(copy):
    config = copy("branch=copy")
    made = steps.branch(config, "new", "bible").path
    run_training(config, made, threads=2)
    try:
        result = run_training(config, made, threads=1)
    finally:
        torch.set_num_threads(1)
    assert not result.exact
    assert "threads 1, begun with 2" in result.notes[0]


def test_losses_that_are_read_late_change_nothing(copy):
    """As on a GPU: metrics and weights are those of a training that reads every loss at once."""
    config = copy("branch=copy")
    plan = schedule.Schedule.of(config.trainer, horizon=7)
    trainer = replace(config.trainer, log_every=4, checkpoint_every=5, clip=0.05)
    weight_files, lines = [], []
    for name, unread in (("at-once", None), ("late", 16)):
        made = steps.branch(config, name, "bible").path
        loop.train(Training(made, batches_of(config), trainer, plan, 7, unread=unread))
        weight_files.append((made / "model.safetensors").read_bytes())
        rows = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
        lines.append([(row["step"], row["loss"], row["grad_norm"]) for row in rows])
    assert weight_files[0] == weight_files[1]
    assert lines[0] == lines[1]
    assert [step for step, *_ in lines[1]] == [1, 4, 7]


@pytest.mark.parametrize("unread", [None, 16])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(copy, unread):
    config = copy("branch=copy", "trainer.clip=0")
    made = steps.branch(config, "new", "bible").path
    trainer = replace(config.trainer, warmup=0.0, checkpoint_every=1)
    rising = schedule.Schedule(peak=1e-3, horizon=200, decay="constant")
    object.__setattr__(rising, "lr", lambda step: 1e-3 if step < 3 else 1e30)
    with pytest.raises(
        loop.TrainingFailedError, match=r"stopped at step [45]: .* Lower trainer.lr"
    ):
        loop.train(Training(made, batches_of(config), trainer, rising, 200, unread=unread))
    kept = checkpoint.latest(made)
    assert checkpoint.read_state(kept)["step"] == 3
    assert all(torch.isfinite(t).all() for t in load_file(kept / "parameters.safetensors").values())
    assert weights.first_not_finite(made) is None


def test_the_seed_optimizer_is_continued(copy):
    config = copy("branch=copy", "trainer.steps=2")
    forest = Forest(config.forest_root)
    assert (forest["seed"].path / checkpoint.MOMENTS).is_file()
    steps.branch(config, "new", "bible")
    made = steps.train(config, "new")
    assert made.result["schedule"]["offset"] == forest["seed"].card.steps
    # The seed's schedule was made for it and the twelve steps of an expert.
    assert made.result["schedule"]["horizon"] == forest["seed"].card.steps + 12
    assert made.result["notes"] == [
        "continues the optimizer and schedule of seed",
        "ends 10 steps before seed's schedule does",
    ]

    config.trainer.carry = "fresh"
    steps.branch(config, "fresh", "bible")
    assert steps.train(config, "fresh").result["schedule"]["offset"] == 0


def continuing(copy, *words):
    """The result of an expert that continues the shared seed: peak 3e-3, 24 steps and 12 to go."""
    config = copy("branch=copy", "merge.force=true", *words)
    steps.branch(config, "new", "bible")
    return steps.train(config, "new").result


def test_an_expert_continues_what_the_seeds_card_says(copy, forest):
    seed = forest["seed"].card.schedule
    assert (seed["peak"], seed["horizon"], seed["offset"]) == (3e-3, 36, 0)
    result = continuing(
        copy, "trainer.lr=0.001", "trainer.decay=linear", "trainer.steps=3", "trainer.carry=auto"
    )
    assert result["schedule"] == seed | {"offset": 24}
    assert result["lr"] == result["trainer"]["lr"] == 3e-3
    assert result["notes"][1] == (
        "without effect, for seed's schedule has another: trainer.lr=0.001 (peak 0.003), "
        "trainer.decay=linear (decay cosine)"
    )


def test_beyond_the_end_of_a_schedule_the_rate_stays(copy):
    result = continuing(copy, "trainer.steps=14", "trainer.lr=null", "trainer.carry=continue")
    assert result["notes"][1:] == [
        "2 steps at 0.0003, the last rate of seed's schedule, which had 12 left"
    ]


def test_a_schedule_that_is_to_be_continued_is_not_contradicted(copy):
    said = r"trainer.lr=0.001 \(peak 0.003\).*leave these out, or give trainer.carry=fresh"
    with pytest.raises(UserError, match=said):
        continuing(copy, "trainer.carry=continue", "trainer.lr=0.001", "trainer.steps=2")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"final": 0.0}, "12 steps left, and ends with a rate of 0.*trainer.steps=12"),
        ({"decay": "stairs"}, "no schedule: 'stairs'; give trainer.carry=fresh"),
        ({"steps": 3}, "no schedule: .*'steps'"),
    ],
)
def test_a_schedule_that_leads_nowhere_is_refused(copy, changed, said):
    config = copy("branch=copy", "trainer.steps=14", "trainer.final_lr=0")
    card = Forest(config.forest_root)["seed"].path / "card.json"
    values = json.loads(card.read_text())
    card.write_text(json.dumps(values | {"schedule": values["schedule"] | changed}))
    steps.branch(config, "new", "bible")
    with pytest.raises(UserError, match=said):
        steps.plan_of_train(config, "new")


def test_a_seed_of_an_older_btm_is_continued_by_the_settings(copy):
    config = copy("branch=copy", "trainer.steps=2")
    card = Forest(config.forest_root)["seed"].path / "card.json"
    values = json.loads(card.read_text())
    del values["schedule"]
    card.write_text(json.dumps(values))
    steps.branch(config, "new", "bible")
    schedule = steps.train(config, "new").result["schedule"]
    assert (schedule["offset"], schedule["horizon"]) == (24, 26)


def test_a_branch_from_several_parents_cannot_continue(copy):
    config = copy("branch=uniform", "trainer.carry=continue")
    steps.branch(config, "new", "novels")
    with pytest.raises(UserError, match="it has several parents; use auto or fresh"):
        steps.train(config, "new")
    config.parent, config.branch = "bible", "copy"
    steps.branch(config, "one", "novels")
    with pytest.raises(UserError, match="'bible' kept no optimizer state"):
        steps.train(config, "one")


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear", "polynomial", "wsd"])
def test_schedules_warm_up_and_end_where_they_should(decay):
    trainer = TrainerConfig(
        lr=1.0, warmup=0.1, decay=decay, decay_power=2.0, decay_share=0.2, final_lr=0.1
    )
    rates = [schedule.Schedule.of(trainer, horizon=100).lr(step) for step in range(101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[100] == pytest.approx(1.0 if decay == "constant" else 0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    middle = {
        "constant": 1.0,
        "cosine": 0.55,
        "linear": 0.55,
        "polynomial": 0.1 + 0.9 * 0.25,
        "wsd": 1.0,
    }[decay]
    assert rates[55] == pytest.approx(middle)


def test_wsd_is_constant_then_linear_and_never_before_the_warm_up_is_over():
    trainer = TrainerConfig(lr=1.0, warmup=0.1, decay="wsd", decay_share=0.2, final_lr=0.1)
    short = schedule.Schedule.of(trainer, horizon=100)
    assert [short.lr(step) for step in (10, 79, 80, 85, 90, 100, 120)] == pytest.approx(
        [1.0, 1.0, 1.0, 0.775, 0.55, 0.1, 0.1]
    )
    whole = schedule.Schedule.of(replace(trainer, decay_share=1.0), horizon=100)
    line = schedule.Schedule.of(replace(trainer, decay="linear"), horizon=100)
    assert [whole.lr(step) for step in range(101)] == pytest.approx(
        [line.lr(step) for step in range(101)]
    )


def test_a_continued_schedule_is_the_rest_of_the_whole():
    trainer = TrainerConfig(lr=1.0, warmup=0.08)
    whole = schedule.Schedule.of(trainer, horizon=50)
    rest = schedule.Schedule.of(trainer, horizon=50, offset=30)
    assert [rest.lr(step) for step in range(20)] == [whole.lr(30 + step) for step in range(20)]


def test_norms_and_biases_are_not_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    groups = optimizers.make_optimizer(model, TrainerConfig()).param_groups
    assert [p.ndim for p in groups[0]["params"]] == [2]
    assert groups[1]["weight_decay"] == 0
    assert len(groups[1]["params"]) == 3


def test_precision_follows_the_hardware():
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert causal_lm.pick_precision("auto", "cpu") == ("bf16" if native else "fp32")
    assert causal_lm.pick_precision("bf16", "cpu") == "bf16"


def test_bf16_autocast_trains_float32_weights(copy):
    config = copy("branch=copy")
    made = steps.branch(config, "new", "bible").path
    result = run_training(config, made, n=2, precision="bf16")
    assert result.precision == "bf16"
    assert causal_lm.stored_dtype(made) == "float32"
    assert math.isfinite(result.loss)


def test_validation_during_training(copy):
    config = copy(
        "branch=copy", "trainer.steps=4", "trainer.valid_every=2", "trainer.log_every=100"
    )
    made = steps.branch(config, "new", "bible")
    steps.train(config, "new")
    lines = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["valid_nats"]] == [2, 4]


def test_a_broken_mirror_does_not_stop_training(copy, monkeypatch, capfd):
    config = copy("branch=copy")
    made = steps.branch(config, "new", "bible").path
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run_training(config, made, n=2, mirrors=["wandb"]).steps == 2
    assert "note: wandb stopped mirroring: ModuleNotFoundError" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    mirrors = Mirrors(["tensorboard"], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        mirrors.log({"loss": 1.5, "valid_nats": None}, 1)
        mirrors.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("name", "millions"), [("pico", 1.05), ("tiny", 6.8), ("125m", 123.5), ("1b3", 1318)]
)
def test_sizes_are_those_of_the_paper(name, millions):
    values = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    vocabulary = {"pico": 2048, "tiny": 8192}.get(name, 50257)
    from transformers import AutoModelForCausalLM

    from btm.config.training import ModelConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            configs.make_config(ModelConfig(**values), vocabulary, 0)
        )
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "gpt_neox", "opt", "bloom"])
def test_every_architecture_runs_the_cycle(model, workspace, tmp_path):
    config = compose(
        [
            *(word for word in workspace if not word.startswith("experiment")),
            f"model={model}",
            f"forest={tmp_path / 'forest'}",
            "data.name=smoke",
            "data.vocab_size=512",
            "data.tokenizer_bytes=500000",
            "trainer.steps=2",
            "seed.steps=2",
            "trainer.seq_len=32",
            "trainer.batch_size=4",
            "score.max_tokens=64",
            "run.domains=[bible]",
            "merge.force=true",
        ]
    )
    result = steps.run(config)
    assert set(result["elms"]) == {"seed", "bible"}
    assert Forest(config.forest_root)["bible"].load().config.model_type == model
