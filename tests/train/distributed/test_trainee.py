"""What differs in a training of several processes, seen in a group of one: the same code, and no
process to start.
"""

import copy as copying
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from btm import steps
from btm.config.training import ModelConfig, TrainerConfig
from btm.data.batches import Batches, windows
from btm.errors import UserError
from btm.models import causal_lm, configs
from btm.train import checkpoint, loop, optimizers
from btm.train.distributed import checkpoint as sharded
from btm.train.distributed.trainee import KINDS
from btm.train.schedule import Schedule
from btm.train.trainee import Trainee
from btm.train.training import Training

TRAINER = TrainerConfig(
    batch_size=4,
    micro_batch_size=3,  # so the last one is smaller
    seq_len=32,
    lr=1e-3,
    precision="fp32",
    device="cpu",
    threads=1,
    checkpoint_every=2,
    log_every=1,
    valid_every=2,
)
ARCHITECTURES = {
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2},
    "gpt_neox": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "opt": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 64},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 2},
    "xglm": {"d_model": 32, "num_layers": 3, "attention_heads": 2, "ffn_dim": 64},
}


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    dist.destroy_process_group()


@pytest.fixture
def folder(grown, tmp_path):
    """A function that gives a fresh copy of the seed's folder, without what it was trained with."""

    def make(name):
        made = shutil.copytree(Path(grown[0].forest_root) / "elms" / "seed", tmp_path / name)
        for file in [*made.glob("metrics*"), *made.glob("optimizer*")]:
            file.unlink()
        return made

    return make


@pytest.fixture
def batches(grown):
    return Batches([steps.open_suite(grown[0]).shard("bible", "train")], 32, 4, 0)


def run(place, batches, trainer, kind=None, n=4, **more):
    """Train in a process that knows of no other (kind=None), or as the only one of a group."""
    model = causal_lm.load_trainable(place, "cpu")
    trainee = KINDS[kind](model, batches, 0, 1, "cpu") if kind else Trainee(model, batches)
    plan = Schedule.of(trainer, horizon=4)
    return loop.loop(Training(place, batches, trainer, plan, n, **more), trainee)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_comes_to_what_a_process_alone_comes_to(kind, group, folder, batches, grown):
    valid = windows(steps.open_suite(grown[0]).shard("bible", "valid"), 32, 512)
    moments = Path(grown[0].forest_root) / "elms" / "seed" / checkpoint.MOMENTS
    trainer = replace(TRAINER, gradient_checkpointing=True)
    alone, one = folder("alone"), folder("one")
    wanted = run(alone, batches, trainer, valid=valid, moments=moments, keep_moments=True)
    found = run(one, batches, trainer, kind, valid=valid, moments=moments, keep_moments=True)
    for file in ("model.safetensors", checkpoint.MOMENTS):
        mine, theirs = load_file(one / file), load_file(alone / file)
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name], theirs[name], atol=1e-7) for name in theirs)
        assert {name: t.shape for name, t in mine.items()} == {
            name: t.shape for name, t in theirs.items()
        }
    assert found.loss == pytest.approx(wanted.loss, abs=1e-6)
    assert found.optimizer == wanted.optimizer


def test_the_order_of_sums_stands_before_the_first_step(group, folder, batches):
    """DDP finds it in its first backward pass: after a resume it must not be found later than in an
    unbroken run.
    """
    trainee = KINDS["ddp"](causal_lm.load_trainable(folder("begun"), "cpu"), batches, 0, 1, "cpu")
    assert all(parameter.grad is None for parameter in trainee.model.parameters())
    trainee.backward(0, TRAINER, "fp32")
    assert trainee.whole._get_ddp_logging_data()["has_rebuilt_buckets"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_any_checkpoint_is_read_by_any(kind, group, folder, batches):
    """A process alone goes on from a group's checkpoint and the other way round; each has the
    moments it needs.
    """
    sent, got = folder("sent"), folder("got")
    run(sent, batches, TRAINER, kind)
    run(got, batches, TRAINER)
    assert sharded.stands(checkpoint.latest(sent)) and not sharded.stands(checkpoint.latest(got))
    for place in (sent, got):  # the last two steps again
        shutil.rmtree(checkpoint.latest(place))
    run(sent, batches, TRAINER)
    run(got, batches, TRAINER, kind)
    mine, theirs = load_file(got / "model.safetensors"), load_file(sent / "model.safetensors")
    # fsdp has the plain loss, a process alone the one without logits: AdamW makes much of a
    # gradient near 0
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-5) for name in theirs)


def test_moments_of_8_bits_go_through_a_checkpoint_of_several(group, folder, batches):
    pytest.importorskip("bitsandbytes")
    trainer = replace(TRAINER, optimizer="adamw8bit")
    unbroken, resumed = folder("unbroken"), folder("resumed")
    run(unbroken, batches, trainer, "ddp")
    run(resumed, batches, trainer, "ddp")
    shutil.rmtree(checkpoint.latest(resumed))
    run(resumed, batches, trainer, "ddp")
    mine, theirs = (
        load_file(resumed / "model.safetensors"),
        load_file(unbroken / "model.safetensors"),
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_ends_it(kind, group, folder, batches):
    place = folder("hot")
    with pytest.raises(loop.TrainingFailedError, match=r"last good state: checkpoint-00000002"):
        run(place, batches, TRAINER, kind, 2)
        state = load_file(found := next(checkpoint.latest(place).glob("shard-*")))
        spoilt = {
            name: t * float("nan") if t.is_floating_point() else t for name, t in state.items()
        }
        shutil.copytree(found.parent, place / "checkpoint-00000003")
        checkpoint.place(place, 3).joinpath(found.name).write_bytes(_like(found, spoilt))
        text = (found.parent / "state.json").read_text().replace('"step": 2', '"step": 3')
        (place / "checkpoint-00000003" / "state.json").write_text(
            text.replace('"steps": 2', '"steps": 4')
        )
        run(place, batches, TRAINER, kind)


def _like(file, tensors):
    from safetensors import safe_open
    from safetensors.torch import save

    with safe_open(file, "pt") as stored:
        return save(tensors, stored.metadata())


def test_a_damaged_share_is_told_with_its_remedy(group, folder, batches):
    place = folder("damaged")
    run(place, batches, TRAINER, "ddp", 2)
    shard = next(checkpoint.latest(place).glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(
        UserError, match="delete checkpoint-00000002 to go on from the one before it"
    ):
        run(place, batches, TRAINER, "ddp", 2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_is_shared_out(name):
    config = configs.make_config(
        ModelConfig(config={"model_type": name, **ARCHITECTURES[name]}), 64, 0
    )
    found = causal_lm.decoder_layers(causal_lm.new_model(config, 0))
    assert len(found) == 3 and len({type(layer) for layer in found}) == 1


def test_dropout_differs_from_process_to_process(group, batches):
    config = ModelConfig(config={"model_type": "gpt2", **ARCHITECTURES["gpt2"], "resid_pdrop": 0.5})
    model = causal_lm.new_model(configs.make_config(config, 512, 0), 0).train()
    trainer, losses = replace(TRAINER, micro_batch_size=0), []
    for rank in (0, 1, 0):
        trainee = KINDS["ddp"](copying.deepcopy(model), _Same(batches), rank, 2, "cpu")
        torch.manual_seed(7)
        losses.append(trainee.backward(0, trainer, "fp32"))
        optimizers.make_optimizer(trainee.model, trainer)
    assert losses[0] == losses[2] != losses[1]


class _Same:
    """The same rows for every process."""

    def __init__(self, batches):
        self.batches = batches

    def batch(self, step):
        return self.batches.batch(step)[:2].repeat(2, axis=0)

    def marks(self, step):
        return self.batches.marks(step)
