"""Checkpoints written while the training goes on: what they hold, and what becomes of errors."""

import errno
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from btm.config.training import TrainerConfig
from btm.models import causal_lm
from btm.system import durable
from btm.train import checkpoint, optimizers, trainee

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}
STATE = {"settings": {}, "environment": {}, "notes": []}


@pytest.fixture
def training():
    """A model after one step, and its optimizer."""
    model = causal_lm.new_model(LlamaConfig(**SIZES), 0).train()
    optimizer = optimizers.make_optimizer(model, TrainerConfig())
    return step(model, optimizer), optimizer


def step(model, optimizer):
    rows = torch.arange(40).reshape(2, 20).numpy() % 50
    trainee.backward(model, rows, TrainerConfig(), "fp32")
    trainee.apply(optimizer, 0.01)
    return model


def test_holds_what_stood_when_it_was_asked_for(training, tmp_path, monkeypatch):
    model, optimizer = training
    may_write = threading.Event()
    publish = durable.publish_folder

    def slow(path):
        assert may_write.wait(10)
        return publish(path)

    monkeypatch.setattr(durable, "publish_folder", slow)
    wanted = {name: p.clone() for name, p in checkpoint.parameters(model).items()}
    moments = {name: m.clone() for name, m in checkpoint.moments(model, optimizer).items()}
    own = {"mask": torch.tensor([True, False])}
    with checkpoint.Writer() as writer:
        writer.save(tmp_path, model, optimizer, STATE | {"step": 1}, own)
        step(model, optimizer)  # goes on while nothing is written yet
        assert checkpoint.latest(tmp_path) is None
        may_write.set()
    found = checkpoint.latest(tmp_path)
    stored = load_file(found / checkpoint.PARAMETERS)
    assert all(torch.equal(stored[name], p) for name, p in wanted.items())
    assert not all(torch.equal(stored[name], p) for name, p in checkpoint.parameters(model).items())
    stored = load_file(found / checkpoint.MOMENTS)
    assert all(torch.equal(stored[name], m) for name, m in moments.items())
    assert torch.equal(checkpoint.load_own(found)["mask"], own["mask"])


def test_buffers_are_used_again(training, tmp_path):
    model, optimizer = training
    found = []
    with checkpoint.Writer() as writer:
        for number in (1, 2):
            writer.save(tmp_path, model, optimizer, STATE | {"step": number})
            found.append({key: buffer.data_ptr() for key, buffer in writer._buffers.items()})
    assert found[0] == found[1] and len(found[0]) > 3


@pytest.mark.parametrize("behind", [True, False])
def test_an_error_of_the_disk_is_raised_where_the_training_is(
    training, tmp_path, monkeypatch, behind
):
    model, optimizer = training

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(durable, "publish_folder", full)
    with pytest.raises(OSError, match="No space left"), checkpoint.Writer(behind=behind) as writer:
        writer.save(tmp_path, model, optimizer, STATE | {"step": 1})
        writer.wait()
    assert not list(tmp_path.iterdir())


def test_the_error_of_the_training_comes_first(training, tmp_path, monkeypatch):
    model, optimizer = training
    monkeypatch.setattr(
        durable, "publish_folder", lambda path: (_ for _ in ()).throw(OSError("disk"))
    )
    with pytest.raises(ValueError, match="loss"), checkpoint.Writer() as writer:
        writer.save(tmp_path, model, optimizer, STATE | {"step": 1})
        raise ValueError("loss")


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_a_step_divides_gradients_as_it_goes(name):
    """The fused division changes parameters as dividing first does."""
    trainer = replace(TrainerConfig(), optimizer=name)
    found = []
    for divisor in (1.0, 3.0):
        model = causal_lm.new_model(LlamaConfig(**SIZES), 0).train()
        optimizer = optimizers.make_optimizer(model, trainer)
        rows = torch.arange(40).reshape(2, 20).numpy() % 50
        for _ in range(3):
            trainee.backward(model, rows, trainer, "fp32")
            if divisor == 1.0:
                for parameter in model.parameters():
                    parameter.grad /= 3.0
            trainee.apply(optimizer, 0.01, torch.tensor(divisor))
        found.append(checkpoint.parameters(model))
    for key, parameter in found[0].items():
        torch.testing.assert_close(found[1][key], parameter, rtol=1e-5, atol=1e-6, msg=key)
