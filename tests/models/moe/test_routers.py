"""Routers in closed form, from sums that are kept by expert."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from btm.errors import UserError
from btm.models.moe import hidden, routers

L, H, N = 2, 5, 40


def sums_of(x_LNH, name="e"):
    gram = np.einsum("lnh,lnk->lhk", x_LNH, x_LNH)
    return hidden.Sums(name, "shard", "average", x_LNH.shape[1], gram, x_LNH.sum(1), 8, "m")


@pytest.fixture
def states():
    return list(np.random.default_rng(0).normal(size=(3, L, N, H)))


def test_ridge_is_the_least_squares_solution_on_domain_labels(states):
    found = routers.ridge([sums_of(x) for x in states], 2.0)
    for layer in range(L):
        x = np.concatenate([each[layer] for each in states])
        y = np.repeat(np.eye(3), N, axis=0)
        # The normal equations, as least squares of rows sqrt(λ) I added to X.
        wide, zeros = np.vstack([x, np.sqrt(2.0) * np.eye(H)]), np.zeros((H, 3))
        wanted = np.linalg.lstsq(wide, np.vstack([y, zeros]), rcond=None)[0]
        np.testing.assert_allclose(found[layer], wanted.T, atol=1e-12)


def test_domain_rows_point_from_the_middle_to_each_domain(states):
    moved = [x + 10 * np.eye(H)[i] for i, x in enumerate(states)]
    rows = routers.domain([sums_of(x) for x in moved])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1)
    for number, x in enumerate(moved):
        assert ((x @ rows.transpose(0, 2, 1)).argmax(-1) == number).all()


def test_a_random_row_is_its_experts_own():
    three = routers.random(["a", "b", "c"], 1, L, H)
    assert np.array_equal(routers.random(["c", "a"], 1, L, H), three[:, [2, 0]])
    assert not np.array_equal(routers.random(["a", "b", "c"], 2, L, H), three)


def test_sums_come_back_from_their_file_and_damage_is_told(states, tmp_path):
    sums = sums_of(states[0])
    sums.write(tmp_path / "sums.safetensors")
    back = hidden.Sums.read(tmp_path / "sums.safetensors")
    facts = {"expert": "e", "shard": "shard", "reader": "average", "tokens": N}
    facts |= {"window": 8, "model": "m"}
    assert back.is_of(facts)
    for name, other in (("expert", "f"), ("tokens", N + 1), ("window", 9), ("model", "n")):
        assert not back.is_of(facts | {name: other})
    assert np.array_equal(back.gram, sums.gram)
    assert np.array_equal(back.total, sums.total)
    from safetensors.numpy import save_file

    # Those of an older btm name neither window nor model.
    old = {name: str(facts[name]) for name in ("expert", "shard", "reader", "tokens")}
    save_file({"gram": sums.gram, "total": sums.total}, tmp_path / "old.safetensors", old)
    found = hidden.Sums.read(tmp_path / "old.safetensors")
    assert found.is_of({"expert": "e", "window": 0, "model": ""})
    save_file({"gram": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no sums of hidden states"):
        hidden.Sums.read(tmp_path / "other.safetensors")


def test_hidden_states_are_the_inputs_of_the_networks_without_what_fills_up():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    seen = {0: [], 1: []}
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(
            lambda module, given, n=number: seen[n].append(given[0].flatten(0, 1))
        )
    told = []
    ids = np.arange(24).reshape(3, 8)
    gram, total = hidden.read(model, [(ids[:1], 8), (ids[1:], 12)], told.append)
    assert sum(told) == 20
    for number, parts in seen.items():
        x = torch.cat(parts)[:20]
        np.testing.assert_allclose(gram[number], (x.T @ x).numpy(), atol=1e-4)
        np.testing.assert_allclose(total[number], x.sum(0).numpy(), atol=1e-4)
