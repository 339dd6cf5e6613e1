"""The loss without logits is transformers' own, and so are its gradients; other heads are left
alone.
"""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from btm.models import causal_lm
from btm.train.kernels import loss

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ARCHITECTURES = {
    "llama": SIZES | {"intermediate_size": 64, "tie_word_embeddings": True},
    "gpt2": {
        "vocab_size": 300,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "attn_pdrop": 0,
        "resid_pdrop": 0,
        "embd_pdrop": 0,
    },
    "gpt_neox": SIZES | {"intermediate_size": 64},
    "bloom": SIZES,
    "opt": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "phi": SIZES | {"intermediate_size": 64},  # a bias in its output layer
}


def made(kind, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(ARCHITECTURES.get(kind, SIZES) | more))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


def tokens(rows=3, length=20):
    return torch.randint(0, 300, (rows, length + 1), generator=torch.Generator().manual_seed(1))


def gradients(model, mean, dtype=None):
    rows = tokens()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        value = mean(model, rows[:, :-1], rows[:, 1:])
    (value * 0.5).backward()
    return float(value.detach()), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_equals_the_plain_loss_in_float32(kind):
    plain, ours = made(kind), made(kind)
    assert loss.fits(ours)
    wanted, theirs = gradients(plain, causal_lm.mean_nll)
    found, gained = gradients(ours, loss.mean_nll)
    assert found == pytest.approx(wanted, abs=1e-6)
    for name, gradient in theirs.items():
        torch.testing.assert_close(gained[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_is_as_near_to_float32_as_the_plain_loss_under_autocast(kind):
    _, exact = gradients(made(kind), causal_lm.mean_nll)
    wanted, theirs = gradients(made(kind), causal_lm.mean_nll, torch.bfloat16)
    found, ours = gradients(made(kind), loss.mean_nll, torch.bfloat16)
    assert found == pytest.approx(wanted, abs=1e-4)
    off = [sum(float((g[name] - exact[name]).norm()) for name in exact) for g in (ours, theirs)]
    assert 0 < off[0] < 1.1 * off[1]


def test_chunks_make_no_difference(monkeypatch):
    model = made("llama")
    whole, gained = gradients(model, loss.mean_nll)
    gained = {name: gradient.clone() for name, gradient in gained.items()}
    model.zero_grad()
    monkeypatch.setattr(loss, "CHUNK_BYTES", 300 * 4 * 7)
    monkeypatch.setattr(loss, "ROWS", 300 * 2)
    chunked, again = gradients(model, loss.mean_nll)
    assert chunked == pytest.approx(whole, abs=1e-6)
    for name in gained:
        torch.testing.assert_close(again[name], gained[name], rtol=1e-4, atol=1e-7)


def test_heads_with_more_than_a_product_take_the_plain_path():
    model = made("granite", logits_scaling=3.0, intermediate_size=64)
    assert not loss.fits(model)
    wanted, theirs = gradients(copy.deepcopy(model), causal_lm.mean_nll)
    found, ours = gradients(model, loss.mean_nll)
    assert found == wanted
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_probabilities_too_small_for_float32_give_the_true_loss():
    logits = torch.full((2, 5), -200.0)
    logits[:, 0] = 100.0
    found = loss.softmax_less_target(logits, torch.tensor([3, 0]))
    assert found.tolist() == pytest.approx([300.0, 0.0])
    assert logits[0].tolist() == [1.0, 0.0, 0.0, -1.0, 0.0]
