"""The mask's life: whole numbers that sum exactly, the smallest go, those of largest momentum
come.
"""

import pytest
import torch

from btm.train.sparse import masks as momentum


def test_shares_sum_exactly_and_keep_to_the_room():
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 7, 40):
        for _ in range(50):
            weights = torch.rand(n, generator=generator).pow(4).tolist()
            room = torch.randint(0, 500, (n,), generator=generator).tolist()
            total = int(torch.randint(0, sum(room) + 1, (1,), generator=generator))
            given = momentum.share(total, weights, room)
            assert sum(given) == total
            assert all(0 <= part <= most for part, most in zip(given, room, strict=True))


def test_shares_are_proportional_and_overflow_is_even():
    assert momentum.share(10, [1.0, 1.0, 3.0], [100, 100, 100]) == [2, 2, 6]
    assert momentum.share(10, [0.0, 0.0, 1.0], [100, 100, 4]) == [3, 3, 4]
    assert sorted(momentum.share(2, [1.0, 1.0, 1.0], [9, 9, 9])) == [0, 1, 1]
    assert momentum.share(4, [0.0, 0.0], [9, 9]) == [2, 2]
    assert momentum.share(4, [float("nan"), 1.0], [9, 9]) == [2, 2]
    with pytest.raises(ValueError, match="5 entries, and room for 3"):
        momentum.share(5, [1.0, 1.0], [1, 2])


def test_the_rate_falls_from_first_to_a_hundredth():
    rates = [momentum.rate(0.5, t / 10) for t in range(11)]
    assert rates[0] == 0.5
    assert rates[-1] == pytest.approx(0.005)
    assert rates == sorted(rates, reverse=True)


def test_the_first_mask_has_the_budget_and_comes_from_the_seed():
    shapes = {"a": (30, 7), "b": (11, 5), "c": (1, 3)}
    one, again, other = (momentum.begin(shapes, 53, seed) for seed in (1, 1, 2))
    assert sum(int(mask.sum()) for mask in one.values()) == 53
    assert {name: tuple(mask.shape) for name, mask in one.items()} == shapes
    assert all(torch.equal(one[name], again[name]) for name in shapes)
    assert not torch.equal(one["a"], other["a"])


def test_the_smallest_go_and_those_of_largest_momentum_come():
    masks = {
        "a": torch.tensor([[True, True, True, True, False, False, False, False, False, False]])
    }
    changes = {"a": torch.tensor([[0.1, -4.0, -0.2, 3.0, 0, 0, 0, 0, 0, 0]])}
    momenta = {"a": torch.tensor([[0.0, 0, 0, 0, 1, 9, 2, 8, 3, 0]])}
    assert momentum.move(masks, changes, momenta, 0.5) == 2
    assert masks["a"].nonzero()[:, 1].tolist() == [1, 3, 5, 7]


def test_what_is_freed_goes_to_the_tensor_of_larger_mean_momentum():
    masks = momentum.begin({"calm": (40, 50), "busy": (40, 50)}, 200, 0)
    changes = {name: torch.rand(40, 50) for name in masks}
    momenta = {"calm": torch.full((40, 50), 1.0), "busy": torch.full((40, 50), 3.0)}
    momentum.move(masks, changes, momenta, 0.2)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"calm": 90, "busy": 110}


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9, 0.995, 1.0])
def test_the_budget_is_exact_at_every_density(density):
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (64, 33), "small": (3, 3), "tall": (100, 2)}
    budget = round(density * sum(a * b for a, b in shapes.values()))
    masks = momentum.begin(shapes, budget, 0)
    for step in range(20):
        scale = {
            "wide": 1.0,
            "small": 1e6,
            "tall": 0.0,
        }  # one that would take all, one that has no momentum
        changes = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
        momenta = {n: torch.rand(s, generator=generator) * scale[n] for n, s in shapes.items()}
        momentum.move(masks, changes, momenta, momentum.rate(0.5, step / 20))
        assert sum(int(mask.sum()) for mask in masks.values()) == budget
        assert all(mask.any() for mask in masks.values())


def test_adams_momentum():
    like = torch.zeros(3)
    state = {
        "exp_avg": torch.tensor([0.2, -0.4, 0.0]),
        "exp_avg_sq": torch.tensor([0.04, 0.01, 0.0]),
    }
    torch.testing.assert_close(momentum.normalised(state, like), torch.tensor([1.0, 4.0, 0.0]))
    torch.testing.assert_close(momentum.gain(state, like), torch.tensor([0.2, 1.6, 0.0]))
    assert not momentum.gain({}, like).any()


def test_moments_of_8_bits_are_read_as_bitsandbytes_writes_them():
    generator = torch.Generator().manual_seed(0)
    size, blocks = 600, 3
    book = torch.linspace(-1, 1, 256)
    state = {"step": 3}
    for which in "12":
        state |= {
            f"state{which}": torch.randint(
                128, 256, (20, 30), generator=generator, dtype=torch.uint8
            ),
            f"absmax{which}": torch.rand(blocks, generator=generator),
            f"qmap{which}": book,
        }
    scale = [state[f"absmax{w}"].repeat_interleave(256)[:size] for w in "12"]
    m, v = (book[state[f"state{w}"].flatten().long()] * s for w, s in zip("12", scale, strict=True))
    wide = {"exp_avg": m.view(20, 30), "exp_avg_sq": v.view(20, 30)}
    like = torch.zeros(20, 30)
    assert torch.equal(momentum.gain(state, like), momentum.gain(wide, like))
    plain = {"step": 3, "state1": wide["exp_avg"], "state2": wide["exp_avg_sq"]}
    assert torch.equal(momentum.gain(plain, like), momentum.gain(wide, like))


def test_the_largest_changes_of_all_tensors_together():
    changes = {"a": torch.tensor([[5.0, -1.0]]), "b": torch.tensor([[-3.0, 4.0], [0.0, 2.0]])}
    masks = momentum.largest(changes, 3)
    assert masks["a"].tolist() == [[True, False]]
    assert masks["b"].tolist() == [[True, True], [False, False]]
