"""LLM.int8(): its arithmetic against the paper's formula and bitsandbytes' own module, and what is
converted in models of each kind.
"""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from bench.outliers import plant
from btm.config.load import LoadConfig
from btm.errors import UserError
from btm.models import inference

pytest.importorskip("bitsandbytes")
int8 = pytest.importorskip("btm.models.int8")  # which imports torch at once

VOCABULARY = 128
BASE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = {
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    "llama": BASE | {"intermediate_size": 256, "tie_word_embeddings": True},
    "bloom": {"hidden_size": 128, "n_layer": 2, "n_head": 4},
    "falcon": BASE,
    "mamba": {"hidden_size": 128, "num_hidden_layers": 2, "state_size": 8},
    "mixtral": BASE | {"intermediate_size": 64, "num_local_experts": 2, "num_key_value_heads": 2},
    "qwen3_moe": BASE
    | {"head_dim": 32, "num_key_value_heads": 2, "moe_intermediate_size": 64, "num_experts": 2}
    | {"num_experts_per_tok": 2},
}
MIXTURES = ("mixtral", "qwen3_moe")


def made(kind):
    torch.manual_seed(1)
    config = CONFIG_MAPPING[kind](vocab_size=VOCABULARY, **KINDS[kind])
    return AutoModelForCausalLM.from_config(config).eval()


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def text(rows=2, tokens=24):
    return torch.randint(VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(3))


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits.float()


def formula(x_TK, w_MK, bias_M, columns=()):
    """The paper's equations for each token by itself; what is rounded to 8 bits is in float32, for
    another rounding of 127 x / c may be one code away.
    """
    x_TK, w_MK = x_TK.numpy(), w_MK.numpy()
    c_M = np.abs(w_MK).max(axis=1)
    w8_MK = np.round(w_MK * (np.float32(127) / c_M)[:, None]).astype(float)
    exact_MK = w8_MK * c_M[:, None] / 127
    step_M = c_M[:, None] / (127 * 254)
    exact_MK[:, columns] += (
        np.round((w_MK - exact_MK)[:, columns] / step_M).clip(-127, 127) * step_M
    )
    found = []
    for x_K in x_TK:
        apart_K = np.abs(x_K) >= 6
        apart_K[list(columns)] = True
        rest_K = np.where(apart_K, 0, x_K)
        c = np.abs(rest_K).max()
        x8_K = np.round(rest_K * (np.float32(127) / c)).astype(float)
        product_M = w8_MK @ x8_K * c * c_M / 127**2
        found.append(product_M + exact_MK[:, apart_K] @ x_K[apart_K] + bias_M.double().numpy())
    return np.array(found)


@pytest.mark.parametrize("columns", [[], [1, 5]])
@pytest.mark.parametrize(("inner", "outer"), [(64, 48), (7, 5)])
def test_it_is_the_formula_of_the_paper_token_by_token(columns, inner, outer):
    # float16's own numbers, in which the library rounds what is not apart
    x, w, b = matrix(9, inner).half().float(), matrix(outer, inner, 1), matrix(1, outer, 2)[0]
    x[2, 3], x[4, 1], x[4, 3] = 60.0, -30.0, 6.0
    linear = int8.Int8Linear(w, b, torch.tensor(columns, dtype=torch.long))
    with torch.inference_mode():
        found = linear(x[None])[0]
    # Its 1 / 127² is 6.200124e-5, where 6.2000124e-5 was meant.
    np.testing.assert_allclose(found, formula(x, w, b, columns), atol=2e-4, rtol=6e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_one_token_it_is_what_bitsandbytes_computes(dtype):
    import bitsandbytes

    x, w = matrix(6, 32).to(dtype), matrix(48, 32, 1).half().float()
    x[1, 3], x[4, 7] = 40.0, -7.0
    plain = nn.Linear(32, 48)
    plain.weight.data = w
    theirs = bitsandbytes.nn.Linear8bitLt(32, 48, has_fp16_weights=False, threshold=6.0)
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to("cpu").eval()
    ours = int8.Int8Linear(w, plain.bias.detach())
    with torch.inference_mode():
        for x_K in x:
            assert torch.equal(ours(x_K[None]), theirs(x_K[None]))
    assert torch.equal(ours.codes, theirs.state.CB)


def test_a_text_has_the_same_numbers_whatever_is_beside_it():
    model = inference.prepared(plant(made("llama"), 60), "cpu", LoadConfig("int8"))
    ids = text(rows=5)
    alone = torch.cat([logits(model, row[None]) for row in ids])
    torch.testing.assert_close(logits(model, ids), alone, atol=1e-5, rtol=0)


def test_in_training_mode_outliers_are_kept_too():
    model = inference.prepared(plant(made("gpt2"), 60), "cpu", LoadConfig("int8"))
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    wanted = logits(model, text())
    assert torch.equal(logits(model.train(), text()), wanted)


STAYS = ("mamba", *MIXTURES)  # its convolutions and A; its routers


@pytest.mark.parametrize("kind", KINDS)
def test_linears_are_converted_and_nothing_else(kind):
    model = made(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = logits(model, text())
    found = inference.prepared(model, "cpu", LoadConfig("int8"))
    for name, value in found.state_dict().items():
        if name in before:
            assert torch.equal(value, before[name]), name
    linears = {n: p for n, p in found.named_modules() if isinstance(p, int8.Int8Linear)}
    assert all(".layers." in name or ".h." in name for name in linears)
    gone = {name for name in before if name not in found.state_dict()}
    if kind in MIXTURES:
        experts = {name for name in gone if name.rpartition(".")[0].endswith(".experts")}
        assert len(experts) == 4
        gone -= experts
        linears = {name: part for name, part in linears.items() if ".experts." not in name}
    assert gone == {f"{name}.weight" for name in linears}
    assert not any(word in name for name in gone for word in ("embed", "norm", "ln_", "head"))
    stored = int8.storage(found)
    assert stored.ratio <= 0.27
    assert (stored.layers_rest > 0) == (kind in STAYS)
    difference = (logits(found, text()) - wanted).abs().max()
    assert 0 < difference < 0.04 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_planted_outliers_cost_no_more_than_none(kind):
    """In every norm, by the transformation that changes nothing in float32."""
    model = made(kind)
    with torch.no_grad():  # far from uniform, so that there is something to lose
        model.get_output_embeddings().weight.mul_(5)
    ids = text(4, 64)
    wanted = torch.log_softmax(logits(model, ids), -1)
    planted = plant(copy.deepcopy(model), 60)
    exact = torch.log_softmax(logits(planted, ids), -1)
    torch.testing.assert_close(exact, wanted, atol=1e-3, rtol=0)

    def off(made_of, how, *, apart=True):
        loaded = inference.prepared(copy.deepcopy(made_of), "cpu", how)
        for part in loaded.modules():
            if isinstance(part, int8.Int8Linear) and not apart:
                part.threshold = float("inf")
                part.columns, part.fine = part.columns[:0], part.fine[:, :0]
        found = torch.log_softmax(logits(loaded, ids), -1)
        return float((wanted.exp() * (wanted - found)).sum(-1).mean())

    of_planted = off(planted, LoadConfig("int8"))
    assert of_planted < 1e-3
    assert of_planted < 3 * off(model, LoadConfig("int8")) + 1e-5
    assert off(planted, LoadConfig("int8"), apart=False) > 10 * of_planted


def test_a_column_of_the_probe_has_sixteen_bits():
    w = matrix(48, 32)
    w[:, 3] /= 60
    linear = int8.Int8Linear(w, None, torch.tensor([3]))
    step = w.abs().amax(dim=1) / 127
    error = (linear.weight - w).abs() / step[:, None]
    assert error[:, 3].max() <= 0.51 / 254 * 1.01
    assert 0.4 < error.max() <= 0.51


def test_rows_and_tokens_of_zeros_and_no_tokens_at_all():
    w = matrix(8, 16)
    w[2] = 0
    linear = int8.Int8Linear(w, None, torch.tensor([1]))
    x = matrix(3, 16, 1)
    x[1] = 0
    x[2] = 100.0
    with torch.inference_mode():
        y = linear(x)
        assert linear(x[:0]).shape == (0, 8)
        assert linear(x[None, None]).shape == (1, 1, 3, 8)
    assert not y[:, 2].any() and not y[1].any()
    torch.testing.assert_close(y[2], x[2] @ w.T, atol=0.5 * 16 * 100 * 4 / 127, rtol=0)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("word", ["bf16", "fp16"])
def test_what_is_not_quantised_has_the_dtype_asked_for(word):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[word]
    model = made("llama")
    wanted = logits(model, text())
    found = inference.prepared(copy.deepcopy(model), "cpu", LoadConfig("int8", word))
    assert {p.dtype for p in found.parameters()} == {dtype}
    parts = [part for part in found.modules() if isinstance(part, int8.Int8Linear)]
    codes = inference.prepared(model, "cpu", LoadConfig("int8"))
    theirs = [part for part in codes.modules() if isinstance(part, int8.Int8Linear)]
    for part, other in zip(parts, theirs, strict=True):
        # of the numbers on disk, not of those rounded to 16 bits; also after a cast of the whole
        assert torch.equal(part.codes, other.codes) and torch.equal(part.scales, other.scales)
        assert part.to(dtype).scales.dtype == torch.float32
    assert (logits(found, text()) - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_a_model_that_it_does_not_go_with_is_refused():
    config = CONFIG_MAPPING["rwkv"](vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match="rwkv changes its own matrices"):
        inference.prepared(model, "cpu", LoadConfig("int8"))
    with pytest.raises(UserError, match=r"trainer.device=mps does not multiply int8; use"):
        inference.prepared(made("llama"), "mps", LoadConfig("int8"))
    with pytest.raises(UserError, match="NaN or infinite"):
        int8.Int8Linear(torch.full((4, 4), float("nan")), None)


def test_without_bitsandbytes_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"int8 needs bitsandbytes .*\[int8\]', or use load.dtype"):
        inference.prepared(made("llama"), "cpu", LoadConfig("int8"))
