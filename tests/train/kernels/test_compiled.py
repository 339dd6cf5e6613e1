"""Compiled layers: the same numbers, decided once, kept over a resume, and given up where they
cannot be had.
"""

import json
import os
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from btm import steps
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest
from btm.models import causal_lm
from btm.train import checkpoint
from btm.train.kernels import compiled


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Skip where torch finds no C++ compiler or no headers of Python, but not where all must be
    tested.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.compile(lambda x: x + 1)(torch.ones(2))
    except Exception as error:
        assert not os.environ.get("CI"), error
        pytest.skip("torch cannot compile here: apt install g++ python3-dev")


ROWS = torch.arange(30).reshape(2, 15) % 11


def model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", intermediate_size=32, **sizes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


def layers(made, how="auto", *, left=1000, state=None, trial=None):
    return compiled.Layers(
        made, how, left, state, trial or (lambda: made(ROWS).logits.sum().backward())
    )


def is_compiled(made):
    return ["forward" in vars(layer) for layer in causal_lm.decoder_layers(made)]


@pytest.mark.slow
def test_gives_the_same_logits_and_leaves_no_trace():
    made = model()
    plain = made(ROWS).logits
    chosen = layers(made, "always")
    assert chosen.state is True and is_compiled(made) == [True, True]
    assert all(p.grad is None for p in made.parameters()), "the trial left its gradients"
    torch.testing.assert_close(made(ROWS).logits, plain)
    with chosen.plain():
        assert is_compiled(made) == [False, False]
        assert torch.equal(made(ROWS).logits, plain)
    assert is_compiled(made) == [True, True]
    chosen.stop()
    assert torch.equal(made(ROWS).logits, plain)


def paced(monkeypatch, seconds):
    """Let the clock that times steps go as `seconds` says, a step after another."""
    ticks = iter([t for each in seconds for t in (0.0, each)])
    monkeypatch.setattr(compiled, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.parametrize(
    ("left", "seconds", "state"),
    [
        (500, [9, 1, 1, 1], False),  # 496 s are left: it would not pay back
        (1000, [9, 1, 1, 1, 0.7, 0.8, 0.7], True),
        (1000, [9, 1, 1, 1, 1.2, 1.1, 1.2], False),  # it is slower
    ],
)
def test_the_clock_decides(monkeypatch, left, seconds, state):
    made = model()
    chosen = layers(made, left=left)
    paced(monkeypatch, seconds)
    for _ in seconds:
        assert chosen.state is None
        with chosen.step():
            pass
    assert chosen.state is state
    assert is_compiled(made) == [state, state]


def test_what_was_decided_before_holds():
    assert is_compiled(made := model()) == [False, False]
    assert layers(made, state=True).state is True and is_compiled(made) == [True, True]
    assert layers(model(), state=False).state is False
    assert layers(model(), "never", state=True).state is False


def test_without_a_compiler_auto_does_without_and_always_says_so(monkeypatch):
    def fails():
        raise RuntimeError("no compiler\nlong story")

    with pytest.raises(
        UserError, match=r"trainer.compile=always.*\(no compiler\); trainer.compile=never"
    ):
        layers(made := model(), "always", trial=fails)
    assert is_compiled(made) == [False, False]
    begun_elsewhere = layers(made, state=True, trial=fails)  # auto, where they could be compiled
    assert begun_elsewhere.state is False and is_compiled(made) == [False, False]
    assert begun_elsewhere.notes == ["torch cannot compile this model here (no compiler)"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert layers(model()).state is False


@pytest.mark.slow
def test_a_training_resumes_bit_for_bit(workspace, grown, tmp_path):
    """Killed after a checkpoint and resumed, compiled both times; and auto goes on as it was
    decided.
    """
    roots = [tmp_path / name for name in ("unbroken", "resumed", "plain")]
    for root in roots:
        shutil.copytree(grown[0].forest_root, root)
    words = [*workspace, "trainer.checkpoint_every=3", "trainer.steps=8"]
    for root, how in zip(roots, ("always", "always", "never"), strict=True):
        config = compose([*words, f"forest={root}", f"trainer.compile={how}"])
        steps.branch(config, "again", "bible", among=["seed"])
        steps.train(config, "again")
    branch = roots[1] / "branches" / "again"
    (branch / "trained.json").unlink()
    shutil.rmtree(checkpoint.latest(branch))
    assert checkpoint.read_state(checkpoint.latest(branch))["compiled"] is True
    result = steps.train(
        compose([*words, f"forest={roots[1]}", "trainer.compile=auto"]), "again"
    ).result
    assert result["exact"] and "its layers were compiled by torch" in result["notes"]
    weights = [
        load_file(Forest(root).get_branch("again").path / "model.safetensors") for root in roots
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    losses = [
        json.loads((root / "branches/again/trained.json").read_text())["loss"] for root in roots
    ]
    assert losses[0] == losses[1] == pytest.approx(losses[2], abs=0.01)
