"""Training on examples: loss and gradients against transformers' own on unpacked batches, for
classes that keep packed examples apart and for those that do not; resume, sparse, the ledger.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM

from btm.config.training import TrainerConfig
from btm.data.batches import Batches, windows
from btm.errors import TrainingStoppedError
from btm.models import causal_lm, flops
from btm.train import kernels, loop, packing, trainee
from btm.train.schedule import Schedule
from btm.train.training import Training

L = 128
TRAINER = TrainerConfig(
    batch_size=4, seq_len=L, lr=1e-3, precision="fp32", device="cpu", threads=2, checkpoint_every=2
)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2}
KINDS = {
    "llama": LLAMA,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": L}
    | dict.fromkeys(["attn_pdrop", "embd_pdrop", "resid_pdrop"], 0.0),
    "gpt_neox": SIZES | {"intermediate_size": 64},
    "bloom": SIZES | dict.fromkeys(["hidden_dropout", "attention_dropout"], 0.0),
    "opt": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
}
APART = {"llama", "gpt2", "gpt_neox"}  # transformers masks by positions in these


def new(kind, vocab_size=512):
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, vocab_size=vocab_size, **KINDS[kind], **special)
    ).train()


@pytest.fixture
def shard(examples):
    return examples.shard("speeches", "train")


def by_transformers(model, shard, batch, marks):
    """The loss of a batch as transformers gives it: the same examples, one a row, padded, those
    tokens labelled that are predicted; each example alone, where it has a weight.
    """
    loss, total, weighed = 0.0, 0.0, {}
    ends = shard.documents[:, 0].cumsum()
    wanted = {
        tuple(shard.tokens[end - n : end].tolist()): (shard.mask[end - n : end], float(weight))
        for end, n, weight in zip(ends, shard.documents[:, 0], shard.weights, strict=True)
    }
    rows = []
    for row, positions in zip(batch, marks.positions, strict=True):
        begins = [*(positions == 0).nonzero()[0].tolist(), L]
        for a, b in itertools.pairwise(begins):
            found = tuple(row[a:b].tolist())
            if found in wanted:
                rows.append((found, *wanted[found]))
    for found, mask, weight in rows:
        weighed.setdefault(weight, []).append((torch.tensor(found), torch.tensor(mask)))
    for weight, some in weighed.items():
        ids = pad_sequence([ids for ids, _ in some], batch_first=True)
        masks = pad_sequence([mask for _, mask in some], batch_first=True)
        labels = ids.masked_fill(masks == 0, -100)
        count = int((labels[:, 1:] != -100).sum())
        found = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss, total = loss + weight * count * found, total + weight * count
    return loss / total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fast", [True, False])
def test_loss_and_gradients_are_those_of_transformers(shard, kind, fast):
    batches, model = Batches([shard], L, 4, seed=3), new(kind)
    batch, marks = batches.batch(5), batches.marks(5)  # before it is known what can be packed
    wanted = by_transformers(model, shard, batch, marks)
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}

    if fast:
        kernels.prepare(model)
    trainer = replace(TRAINER, kernels=fast, micro_batch_size=3)
    if kind in APART:
        assert packing.settle(trainee.Trainee(model, batches)) == []
    else:
        (note,) = packing.settle(trainee.Trainee(model, batches))
        assert note == f"one example a row: {kind} does not keep several in a row apart"
        batch, marks = unpacked(batch, marks)
    model.zero_grad()
    found = trainee.backward(model, batch, trainer, "fp32", marks=marks)
    assert float(found) == pytest.approx(float(wanted.detach()), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - gradients[name]).abs().max() < 1e-5, name


def unpacked(batch, marks):
    """The examples of packed rows in a row each."""
    rows, weights = [], []
    for row, weight, positions in zip(batch, marks.weights, marks.positions, strict=True):
        begins = [*(positions == 0).nonzero()[0].tolist(), L]
        for a, b in itertools.pairwise(begins):
            rows.append(torch.from_numpy(row[a : b + 1]))
            weights.append(torch.from_numpy(weight[a:b]))
    ids, shares = pad_sequence(rows, batch_first=True), pad_sequence(weights, batch_first=True)
    return ids.numpy(), type(marks)(shares.numpy(), None)


def test_a_row_without_packing_is_one_example(shard):
    batches = Batches([shard], L, 4, seed=3)
    packed = batches.tokens(1)
    trainee_of_bloom = trainee.Trainee(new("bloom"), batches)
    packing.settle(trainee_of_bloom)
    assert batches.marks(0).positions is None and batches.tokens(1) < packed
    assert batches.batch(0).shape[1] < L  # as long as the longest of them
    assert trainee_of_bloom.settings()["packed"] is False


def test_valid_is_what_transformers_gives(examples):
    model, valid = new("llama").eval(), windows(examples.shard("speeches", "valid"), L)
    ends = valid.shard.documents[:, 0].cumsum()
    nats = tokens = 0
    for end, n in zip(ends, valid.shard.documents[:, 0], strict=True):
        ids = torch.tensor(valid.shard.tokens[end - n : end].astype("int64"))[None]
        labels = ids.masked_fill(torch.tensor(valid.shard.mask[end - n : end])[None] == 0, -100)
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += count * float(model(input_ids=ids, labels=labels).loss)
        tokens += count
    assert tokens == valid.n_predicted
    for rows in (2, 32):
        assert trainee.validate(model, valid, rows=rows) == pytest.approx(nats / tokens, abs=1e-5)


def test_of_no_target_there_is_no_gradient(shard):
    model, batch = new("llama"), Batches([shard], L, 4, seed=3).batch(0)
    ids = torch.from_numpy(batch)
    for nll in (kernels.loss.mean_nll, causal_lm.mean_nll):
        loss = nll(model, ids[:, :-1], ids[:, 1:], torch.zeros(4, L))
        loss.backward()
        assert float(loss.detach()) == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def trained(make, folder, batches, trainer, n=4, stop=None, train=loop.train):
    training = Training(
        make(folder),
        batches,
        trainer,
        Schedule.of(trainer, horizon=n),
        n,
        pulse=lambda done: done == stop,
    )
    return train(training)


@pytest.fixture
def planted(tmp_path):
    """A function that makes, once, the folder of a model of this name."""

    def plant(name):
        if not (tmp_path / name).exists():
            new("llama").save_pretrained(tmp_path / name)
        return tmp_path / name

    return plant


def test_a_resumed_training_is_the_unbroken_one(planted, shard):
    batches = Batches([shard], L, 4, seed=3)
    whole = trained(planted, "whole", batches, TRAINER)
    with pytest.raises(TrainingStoppedError):
        trained(planted, "half", Batches([shard], L, 4, seed=3), TRAINER, stop=2)
    again = trained(planted, "half", Batches([shard], L, 4, seed=3), TRAINER)
    assert again.exact and again.loss == whole.loss
    one, other = (load_file(planted(name) / "model.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    # The ledger counts what was predicted as tokens; FLOPs are of all that was read.
    assert whole.tokens == batches.tokens(4) < batches.read(4)
    per_token = flops.Shape.of(new("llama")).training_flops(L)
    assert whole.flops == batches.read(4) * per_token
