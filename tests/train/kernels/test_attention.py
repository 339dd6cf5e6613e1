"""Attention block by block equals torch's own, within the rounding of bfloat16, and stands aside
elsewhere.
"""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AutoConfig, AutoModelForCausalLM

from btm.train.kernels import attention

LLAMA = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def drawn(heads, T, D, dtype):
    chance = torch.Generator().manual_seed(T)
    return [torch.randn(heads, T, D, generator=chance).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("T", [2, 127, 128, 129, 300])
def test_equals_attention_in_float64_and_so_do_gradients(T):
    q, k, v = drawn(3, T, 16, torch.float64)
    out, _ = attention.block_causal(q, k, v, 0.2)
    wanted = sdpa(q, k, v, is_causal=True, scale=0.2)
    torch.testing.assert_close(out, wanted)
    chance = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(t, (q, k, v), chance) for t in (out, wanted))
    for gained, gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gained, gradient, rtol=1e-5, atol=1e-6)  # sums of float32


def test_is_a_well_formed_operator():
    q, k, v = drawn(2, 130, 8, torch.float32)
    torch.library.opcheck(
        attention.block_causal,
        (q, k, v, 0.3),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def model(**more):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **(LLAMA | more))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


def logits(made, **inputs):
    rows = torch.randint(0, 64, (2, 150), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return made(input_ids=rows, use_cache=False, **inputs).logits.float()


def test_a_model_gives_the_same_under_it():
    plain, ours = model(), model()
    assert attention.use(ours)
    assert ours.config._attn_implementation == attention.NAME
    torch.testing.assert_close(logits(ours), logits(plain), rtol=0.02, atol=0.02)
    assert not torch.equal(logits(ours), logits(plain)), "both took the same kernel"


@pytest.mark.parametrize("case", ["mask", "float32", "long"])
def test_stands_aside_where_it_is_not_meant_for(case, monkeypatch):
    plain, ours = model(), model()
    attention.use(ours)
    inputs = {}
    if case == "mask":
        inputs["attention_mask"] = torch.ones(2, 150, dtype=torch.long)
        inputs["attention_mask"][0, :5] = 0
    if case == "long":
        monkeypatch.setattr(attention, "LONGEST", 100)
    if case == "float32":
        rows = torch.arange(40)[None]
        assert torch.equal(ours(rows).logits, plain(rows).logits)
    else:
        assert torch.equal(logits(ours, **inputs), logits(plain, **inputs))


def test_an_architecture_without_the_interface_keeps_its_own():
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    bloom = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    before = bloom.config._attn_implementation
    used = attention.use(bloom)
    assert used == (bloom.config._attn_implementation == attention.NAME)
    assert used or bloom.config._attn_implementation == before


def test_the_saved_config_does_not_name_it(tmp_path):
    ours = model()
    attention.use(ours)
    ours.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
