"""What fairseq-train is told, and what it may not be told."""

import math

import pytest

from btm.cli.compose import compose
from btm.config.training import TrainerConfig
from btm.errors import UserError
from btm.fairseq.architecture import Architecture
from btm.train.fairseq import command
from btm.train.fairseq.command import environment, extra_options, interpreter, options
from btm.train.schedule import Schedule

MODEL = Architecture(
    vocab=500,
    positions=64,
    width=32,
    ffn=48,
    layers=2,
    heads=4,
    learned=True,
    scaled=False,
    pre_norm=True,
    tied=True,
    dropout=0.25,
)


def told(device="cpu", steps=100, **values):
    trainer = TrainerConfig(**{"carry": "fresh", "lr": 1e-3} | values)
    words = options(MODEL, trainer, Schedule.of(trainer, horizon=steps), steps, device)
    pairs = [word.removeprefix("--").partition("=") for word in words]
    return {key: value if equals else True for key, equals, value in pairs}


def test_the_trainer_is_put_in_the_words_of_fairseq():
    found = told(
        batch_size=12, micro_batch_size=4, seq_len=48, seed=3, betas=[0.9, 0.98], clip=0.5, lr=1e-3
    )
    assert (found["batch-size"], found["update-freq"], found["tokens-per-sample"]) == (
        "4",
        "3",
        "48",
    )
    assert (found["adam-betas"], found["clip-norm"], found["seed"]) == ("(0.9, 0.98)", "0.5", "3")
    assert (found["dropout"], found["decoder-embed-dim"], found["no-scale-embedding"]) == (
        "0.25",
        "32",
        True,
    )
    assert (found["max-update"], found["warmup-updates"], found["cpu"]) == ("100", "8", True)
    assert "decoder-layers-to-keep" not in found and "bf16" not in found


def test_on_a_gpu():
    found = told("cuda", precision="bf16", gradient_checkpointing=True)
    assert found["bf16"] and found["checkpoint-activations"] and "cpu" not in found


def polynomial(words, step):
    """fairseq's polynomial_decay at an update after the warm-up, as its own code has it."""
    start, end, total = (
        float(words[key]) for key in ("lr", "end-learning-rate", "total-num-update")
    )
    warmup = int(words["warmup-updates"])
    left = 1 - (step - warmup) / (total - warmup)
    return (start - end) * left ** float(words["power"]) + end


def cosine(words, step):
    start, end, period = (float(words[key]) for key in ("lr", "min-lr", "lr-period-updates"))
    at = (step - int(words["warmup-updates"])) / period
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * at))


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear", "polynomial"])
def test_the_schedule_is_that_of_btm(decay):
    values = {"decay": decay, "decay_power": 2.0, "final_lr": 0.2, "lr": 3e-3}
    words = told(**values)
    schedule = Schedule.of(TrainerConfig(**values), horizon=100)
    rate = {"cosine": cosine, "polynomial_decay": polynomial}[words["lr-scheduler"]]
    for step in range(schedule.warmup_steps, 100):
        assert rate(words, step) == pytest.approx(schedule.lr(step))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UserError, match=r"trainer.batch_size=10 is no multiple of it"):
        told(batch_size=10, micro_batch_size=4)
    with pytest.raises(UserError, match="in bfloat16 on GPUs alone"):
        told(precision="bf16")
    with pytest.raises(UserError, match="no schedule of fairseq is constant, then a line"):
        told(decay="wsd")
    trainer = TrainerConfig(lr=1e-3)
    continued = Schedule.of(trainer, horizon=10, offset=5)
    with pytest.raises(UserError, match="a schedule that another training began"):
        options(MODEL, trainer, continued, 5, "cpu")


def test_further_options():
    given = {
        "fp16": True,
        "--fp16_scale_window": 128,
        "user-dir": "recipes",
        "cpu-offload": False,
        "x": None,
    }
    assert extra_options(given) == ["--fp16", "--fp16-scale-window=128", "--user-dir=recipes"]
    assert extra_options({"betas": [1, "a b"]}) == ["--betas", "1", "a b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 1}, "fairseq.options.lr: give trainer.lr"),
        ({"--max_tokens": 1}, "give trainer.batch_size and trainer.micro_batch_size"),
        ({"decoder-layers": 3}, "fairseq.options.decoder-layers: give model"),
        ({"save-dir": "x"}, "fairseq.options.save-dir: btm decides that itself"),
        ({"a b": 1}, "'a b' is no option of fairseq-train"),
        ({"fp16": "--save-dir"}, "wanted true, a word, a number, or a list"),
        ({"fp16": {"a": 1}}, "wanted true, a word, a number, or a list"),
    ],
)
def test_options_that_are_none_or_are_decided(given, message):
    with pytest.raises(UserError, match=message):
        extra_options(given)


def test_the_variables_of_the_child(monkeypatch):
    assert environment("cpu", 3)["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment("cuda:2", 0)["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert environment("cuda:1", 0)["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment("cuda", 0)["CUDA_VISIBLE_DEVICES"] == "5"


def test_an_interpreter_is_found_or_said_to_be_none(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no fairseq in \S+: make an environment with scripts/fairseq"
    ):
        interpreter(None)
    with pytest.raises(UserError, match=r"fairseq.python=\S+: no program that can be run"):
        interpreter(str(tmp_path / "python"))
    no_python = tmp_path / "no-python"
    no_python.write_text("not a program")
    no_python.chmod(0o755)
    with pytest.raises(UserError, match=r"fairseq.python=\S+: no Python"):
        interpreter(str(no_python))


def test_a_folder_called_fairseq_is_no_fairseq(tmp_path, monkeypatch):
    """btm and its tests have such folders, which a Python that is started there would take for a
    package.
    """
    import sys

    (tmp_path / "fairseq_cli").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no fairseq in it"):
        interpreter(sys.executable)
    assert command.ENTRY.is_file()


@pytest.mark.parametrize(
    "word",
    [
        "trainer.carry=auto",
        "trainer.optimizer=adamw8bit",
        "trainer.offload=true",
        "trainer.delta_density=0.1",
        "trainer.valid_every=5",
        "trainer.device=mps",
        "trainer.backend=jax",
        "seed.grow_batch=2",
        "baseline=demix",
        "fairseq.python=",
    ],
)
def test_settings_that_do_not_go_with_it_are_named(word):
    with pytest.raises(UserError, match=f"^{word.partition('=')[0]}="):
        compose(["trainer=fairseq", word])


def test_its_options_want_it():
    assert compose(
        ["trainer=fairseq", "fairseq.options={fp16: true, user-dir: x}"]
    ).fairseq.options == {
        "fp16": True,
        "user-dir": "x",
    }
    with pytest.raises(UserError, match=r"fairseq.options=.*: give trainer=fairseq"):
        compose(["fairseq.options={fp16: true}"])
    with pytest.raises(UserError, match=r"data.special_tokens='bert': choose one of"):
        compose(["data.special_tokens=bert"])
