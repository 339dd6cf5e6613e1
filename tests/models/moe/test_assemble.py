"""A mixture of ELMs: experts byte for byte, the rest averaged, loaded by plain transformers."""

import hashlib
import json
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from btm.errors import UserError
from btm.models import flops, weights
from btm.models.causal_lm import read_config
from btm.models.moe import assemble, routers
from btm.models.moe.classes import CLASSES

LAYERS, WIDTH, INNER = 2, 64, 192
MATRICES = ("gate_proj", "down_proj", "up_proj")
LAYOUTS = {
    "llama": "block_sparse_moe.experts.{}.{}.weight",
    "qwen3": "mlp.experts.{}.{}.weight",
    "olmo2": "mlp.experts.{}.{}.weight",
}


def elm(folder, seed, kind="llama", **changes):
    """Save a model with random weights."""
    sizes = {"vocab_size": 128, "hidden_size": WIDTH, "intermediate_size": INNER}
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(seed)
    own = {"head_dim": 32} if kind == "qwen3" else {}
    own |= {"pad_token_id": 0, "eos_token_id": 0} if kind == "olmo2" else {}
    settings = {**sizes, **heads, "tie_word_embeddings": True, **own, **changes}
    config = AutoConfig.for_model(kind, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def mixture(target, experts, top_k=2, shares=None, rows=None):
    """Write the Mixtral of `experts`, all weighed alike unless `shares` say otherwise."""
    target.mkdir()
    if rows is None:
        rows = routers.random([e.name for e in experts], 0, LAYERS, WIDTH)
    moe = assemble.require_alike(experts)
    shares = shares or dict.fromkeys(experts, 1.0)
    digests = assemble.write(moe, shares, experts, rows, target, top_k)
    config = moe.config(read_config(experts[0] / "config.json"), len(experts), top_k)
    (target / "config.json").write_text(json.dumps(config))
    assert digests == weights.digests(target)
    return target


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    root = tmp_path_factory.mktemp("llamas")
    return [elm(root / name, seed) for seed, name in enumerate(["a", "b", "c"])]


@pytest.fixture(scope="module")
def by_class(experts, tmp_path_factory):
    root = tmp_path_factory.mktemp("others")
    others = {
        kind: [elm(root / f"{kind}-{name}", seed, kind) for seed, name in enumerate("abc")]
        for kind in CLASSES.keys() - {"llama"}
    }
    return {"llama": experts} | others


def logits(folder, ids, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("kind", CLASSES)
def test_each_expert_tensor_is_the_elms_byte_for_byte_and_the_rest_the_average(
    kind, by_class, tmp_path
):
    experts = by_class[kind]
    made = weights.tensors(
        mixture(tmp_path / "moe", experts, shares={experts[0]: 3, experts[2]: 1})
    )
    theirs = [weights.tensors(folder) for folder in experts]
    names = ("w1", "w2", "w3") if kind == "llama" else MATRICES
    own = dict(zip(MATRICES, names, strict=True))
    for layer, number, matrix in product(range(LAYERS), range(3), MATRICES):
        name = f"model.layers.{layer}.{LAYOUTS[kind].format(number, own[matrix])}"
        source = theirs[number][f"model.layers.{layer}.mlp.{matrix}.weight"]
        digest = [hashlib.sha256(t.raw().tobytes()).hexdigest() for t in (made[name], source)]
        assert digest[0] == digest[1]
    a, c = (load_file(experts[i] / "model.safetensors") for i in (0, 2))
    found = load_file(tmp_path / "moe/model.safetensors")
    shared = [name for name in a if ".mlp." not in name]
    assert set(found) == set(shared) | {n for n in found if ".experts." in n or ".gate." in n}
    for name in shared:
        torch.testing.assert_close(found[name], 0.75 * a[name] + 0.25 * c[name])


@pytest.mark.parametrize("kind", CLASSES)
def test_plain_transformers_loads_it_joined_and_saves_the_same_tensors(kind, by_class, tmp_path):
    experts = by_class[kind]
    folder = mixture(tmp_path / "moe", experts)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == CLASSES[kind].architecture
    assert not any(info.values())
    first = load_file(experts[1] / "model.safetensors")
    joined = model.model.layers[1].mlp.experts
    gate, up = (first[f"model.layers.1.mlp.{part}_proj.weight"] for part in ("gate", "up"))
    assert torch.equal(joined.gate_up_proj[1], torch.cat([gate, up]))  # in memory: gate half first
    assert torch.equal(joined.down_proj[1], first["model.layers.1.mlp.down_proj.weight"])
    model.save_pretrained(tmp_path / "again")
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Products of which no side is a multiple of the processor's vectors are summed in another order.
@pytest.mark.parametrize("kind", CLASSES)
def test_identical_experts_give_the_parents_logits_bit_for_bit(kind, by_class, tmp_path):
    ids = torch.randint(0, 128, (2, 40), generator=torch.Generator().manual_seed(0))
    parent = logits(by_class[kind][0], ids)
    rows = np.random.default_rng(0).normal(size=(LAYERS, 4, WIDTH))
    copies = [elm(tmp_path / name, 0, kind) for name in "wxyz"]  # quarters add up without rounding
    one = mixture(tmp_path / "one", copies, top_k=1, rows=rows)
    # Wherever the router sends a token. Not for OLMo2, whose residuals stay unnormed: there a few
    # tokens alone at an expert are summed in another order, 2e-7 apart.
    close = {"rtol": 0, "atol": 1e-6 if kind == "olmo2" else 0}
    torch.testing.assert_close(logits(one, ids), parent, **close)
    halves = mixture(tmp_path / "halves", copies, rows=np.zeros_like(rows))
    assert torch.equal(logits(halves, ids), parent)
    # w·y + (1 − w)·y is rounded for any other w.
    two = mixture(tmp_path / "two", copies, rows=rows)
    torch.testing.assert_close(logits(two, ids), parent, rtol=0, atol=2e-6)


def test_another_top_k_is_another_model(experts, tmp_path):
    one, two = (mixture(tmp_path / str(k), experts, k) for k in (1, 2))
    assert weights.sha256(one) != weights.sha256(two)  # by which scores are kept
    assert weights.sha256(two) == weights.sha256(mixture(tmp_path / "again", experts, 2))


def test_large_weights_are_written_in_several_files(experts, tmp_path, monkeypatch):
    whole = mixture(tmp_path / "whole", experts)
    monkeypatch.setattr(assemble, "SHARD_BYTES", 200_000)
    parts = mixture(tmp_path / "parts", experts)
    assert len(weights.files(parts)) > 2
    ids = torch.arange(20)[None]
    assert torch.equal(logits(parts, ids), logits(whole, ids))


def test_weights_stored_in_16_bits_stay_so(tmp_path):
    folders = [elm(tmp_path / name, seed) for seed, name in enumerate("ab")]
    for folder in folders:
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    made = weights.tensors(mixture(tmp_path / "moe", folders))
    assert {tensor.dtype for tensor in made.values()} == {"BF16"}


def test_a_token_costs_the_experts_that_it_runs(experts, tmp_path):
    costs = [
        flops.Shape.of(AutoModelForCausalLM.from_pretrained(mixture(tmp_path / f"{k}", experts, k)))
        for k in (1, 2, 3)
    ]
    one = flops.Shape.of(AutoModelForCausalLM.from_pretrained(experts[0]))
    network, router = LAYERS * 3 * WIDTH * INNER, LAYERS * 3 * WIDTH
    assert [shape.matrix_parameters for shape in costs] == [
        one.matrix_parameters + router + more * network for more in (0, 1, 2)
    ]
    assert {shape.attention for shape in costs} == {one.attention}


def without(folder, tensor):
    from safetensors.torch import save_file

    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if tensor not in k}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


REFUSED = {
    "another width": (lambda p: elm(p, 1, intermediate_size=128), "differ: tensor"),
    "another depth": (lambda p: elm(p, 1, num_hidden_layers=1), "only one of them has"),
    "another class": (lambda p: elm(p, 1, "qwen3"), "differ: a llama and a qwen3"),
    "biases": (lambda p: elm(p, 1, mlp_bias=True), "has no place in a mixtral"),
    "no network": (lambda p: without(elm(p, 1), "1.mlp.up_proj"), "has no tensor 'mlp.up_proj"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_mixture_cannot_hold_is_refused(experts, tmp_path, case):
    make, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        assemble.require_alike([experts[0], make(tmp_path / "other")])


def test_one_expert_and_another_class_are_refused(experts, tmp_path):
    with pytest.raises(UserError, match="at least two"):
        assemble.require_alike(experts[:1])
    config = read_config(experts[0] / "config.json") | {"model_type": "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="a gpt2, and btm moe takes ELMs of model_type llama"):
        assemble.require_alike([experts[0], tmp_path])
