"""Checkpoints of older fairseq, and pickles that would run something: read without running
anything.
"""

import os
import sys
from argparse import Namespace
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf

from btm.errors import UserError
from btm.fairseq import legacy, to_hugging_face
from btm.models.weights import sha256
from btm.system import sandbox


@pytest.fixture
def state(place):
    return torch.load(place / "models/gpt3/checkpoint_last.pt", weights_only=True)


@pytest.fixture
def folder(place, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source/dict.txt").write_bytes((place / "models/gpt3/dict.txt").read_bytes())

    def save(state, **more):
        torch.save(state, tmp_path / "source/checkpoint_best.pt", **more)
        return tmp_path / "source", tmp_path / "target"

    return save


def as_namespace(state):
    """As fairseq before 0.10 wrote: one flat Namespace of all settings."""
    model, task = state["cfg"]["model"], state["cfg"]["task"]
    args = Namespace(**(task | model), arch="transformer_lm_gpt3_small", lr=[0.1])
    del args._name
    return state | {"cfg": None, "args": args}


def as_omegaconf(state):
    """As fairseq of 2020 wrote: omegaconf's containers, settings that refer to others among
    them.
    """
    state["cfg"]["model"]["tokens_per_sample"] = "${task.tokens_per_sample}"
    state["cfg"]["model"]["max_target_positions"] = None
    return state | {"cfg": OmegaConf.create(state["cfg"])}


def as_mixed(state):
    """A Namespace inside a cfg, as conversions from older checkpoints left it."""
    return state | {"cfg": state["cfg"] | {"model": Namespace(**state["cfg"]["model"])}}


def test_settings_of_classes_of_fairseq_are_read_without_it(folder, state, converted, monkeypatch):
    """Checkpoints of 2020 name fairseq's dataclasses, as the type of a container, and its enums."""
    module = ModuleType("fairseq.dataclass.constants")
    for name in ("fairseq", "fairseq.dataclass", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    module.CHOICES = Enum("CHOICES", {"gelu": "gelu"}, module=module.__name__)
    # As Python wrote it in 2020. That of Debian 12 (3.11.2) names getattr, which is refused.
    module.CHOICES.__reduce_ex__ = lambda member, protocol: (type(member), (member.value,))
    module.ModelConfig = type("ModelConfig", (), {"__module__": module.__name__})
    cfg = OmegaConf.create(state["cfg"])
    cfg.model.activation_fn = module.CHOICES.gelu
    cfg.model._metadata.object_type = module.ModelConfig
    source, target = folder(state | {"cfg": cfg})
    monkeypatch.undo()
    to_hugging_face(source, target, legacy=True)
    assert (target / "config.json").read_bytes() == (converted["gpt3"] / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("form", "is_zip"),
    [(as_namespace, False), (as_namespace, True), (as_omegaconf, True), (as_mixed, True)],
)
def test_older_checkpoints_are_read_when_asked_for(folder, state, converted, form, is_zip):
    source, target = folder(form(state), _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        UserError, match=r"more than tensors and plain values; import.legacy=true reads"
    ) as caught:
        to_hugging_face(source, target)
    assert "\n" not in str(caught.value)
    to_hugging_face(source, target, legacy=True)
    assert sha256(target) == sha256(converted["gpt3"])
    assert (target / "config.json").read_bytes() == (converted["gpt3"] / "config.json").read_bytes()
    assert not list(target.glob(".legacy*"))


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("allowed", [False, True])
def test_nothing_in_a_file_is_run(folder, state, tmp_path, allowed):
    mark = tmp_path / "it ran".replace(" ", "-")
    source, target = folder(state | {"extra_state": Payload(mark), "args": Namespace(arch="x")})
    with pytest.raises(UserError, match=r"posix.system|argparse.Namespace") as caught:
        to_hugging_face(source, target, legacy=allowed)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    if allowed:
        assert "names posix.system, which is no part of a checkpoint; it was not run" in str(
            caught.value
        )


class Eval:
    def __reduce__(self):
        return eval, ("__import__('os').abort()",)


def test_builtins_that_execute_are_no_part_of_a_checkpoint(folder, state):
    source, target = folder(state | {"extra_state": Eval()})
    with pytest.raises(UserError, match=r"names \S*eval, which is no part of a checkpoint"):
        to_hugging_face(source, target, legacy=True)


def written(folder, **more):
    """A checkpoint of an older fairseq, made by hand: no fairseq is needed to test its reader."""
    state = {"args": Namespace(arch="transformer_lm", lr=[0.1]), "model": {"w": torch.ones(4)}}
    torch.save(state | more, folder / "old.pt")
    return folder / "old.pt"


def test_a_checkpoint_is_read_in_a_box(tmp_path):
    found = legacy.read(written(tmp_path), tmp_path)
    assert found.settings["arch"] == "transformer_lm"
    assert torch.equal(found.parameters["w"], torch.ones(4))


def test_a_payload_is_not_run_in_a_box(tmp_path):
    file = written(tmp_path, extra_state=Payload(tmp_path / "mark"))
    with pytest.raises(UserError, match=r"names posix.system, .* it was not run"):
        legacy.read(file, tmp_path)
    assert not (tmp_path / "mark").exists()


def test_memory_is_limited(tmp_path):
    """A tensor of one stored number says that it has 2³⁰, which would take 4 GB."""
    file = written(tmp_path, model={"w": torch.zeros(1).expand(1 << 30)})
    with pytest.raises(UserError, match="more memory or time than allowed") as caught:
        legacy.read(file, tmp_path, memory=100 << 20)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_box_knows_nothing_of_the_user(monkeypatch, tmp_path):
    """Code that does run, some day, finds no secrets in its environment."""
    monkeypatch.setattr(sandbox, "_server", None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    legacy.read(written(tmp_path), tmp_path)  # starts a server of its own
    process = sandbox._server.process
    environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    sandbox._kill(process)
    assert b"PATH=" in environment
    assert b"hush" not in environment
