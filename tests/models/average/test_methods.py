"""Every method against its equation in float64, on whole tensors; what is random against its
probability.
"""

import itertools

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from btm.errors import UserError
from btm.models import average
from btm.models.average import METHODS, sparse, stream

WEIGHTS = [0.5, 1.0, 0.8]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and three models around it; all share some parameters, as experts of one seed do."""
    root, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    base = {
        "w": rng.normal(size=(61, 67)).astype(np.float32),
        "b": rng.normal(size=11).astype(np.float32),
    }
    folders = [root / name for name in ("base", "a", "b", "c")]
    for folder in folders:
        folder.mkdir()
        moved = {key: value.copy() for key, value in base.items()}
        if folder.name != "base":
            moved["w"][:50] += 0.1 * rng.normal(size=(50, 67)).astype(np.float32)
            moved["b"] += 0.1 * rng.normal(size=11).astype(np.float32)
        save_file(moved, folder / "model.safetensors")
    return folders[0], folders[1:]


def made(models, target, method, **settings):
    base, folders = models
    target.mkdir()
    chosen = average.Settings(method=method, base=base, **{"accumulate": "float64"} | settings)
    average.average(dict(zip(folders, WEIGHTS, strict=False)), target, settings=chosen)
    return load_file(target / "model.safetensors")


def deltas(models, key):
    base, folders = models
    origin = load_file(base / "model.safetensors")[key]
    stack = np.stack([load_file(folder / "model.safetensors")[key] - origin for folder in folders])
    return origin.astype(np.float64), stack.astype(np.float64)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7 * np.abs(expected).max())


def weighted(delta):
    return np.array(WEIGHTS).reshape(-1, *[1] * (delta.ndim - 1)) * delta


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_task_arithmetic(models, scale, tmp_path):
    found = made(models, tmp_path / "out", "task_arithmetic", scale=scale)
    for key, value in found.items():
        base, delta = deltas(models, key)
        close(value, base + scale * weighted(delta).sum(0))


SIGNS = [0.5, -1.0, -0.3]
TAKEN = {  # a method: what it makes of one entry's weighted differences, all of them kept
    "task_arithmetic": lambda parts: parts.sum(0),
    "dare_linear": lambda parts: parts.sum(0),
    "breadcrumbs": lambda parts: parts.sum(0),
    "dare_ties": lambda parts: np.where(
        parts.sum(0) >= 0, np.maximum(parts, 0).sum(0), np.minimum(parts, 0).sum(0)
    ),
}


@pytest.mark.parametrize("signs", [SIGNS, [-1.0], [1.0, -1.0]])
@pytest.mark.parametrize("method", METHODS)
def test_negative_weights_subtract_a_difference_or_are_refused(models, method, signs, tmp_path):
    """θ_0 + λ Σ w_j δ_j with w_j < 0, as in task arithmetic's negation; (1, -1) is its analogy."""
    base, folders = models
    sources = dict(zip(folders, signs, strict=False))
    chosen = average.Settings(
        method=method,
        base=base,
        scale=0.7,
        density=1.0,
        accumulate="float64",
        importance=dict.fromkeys(folders, base),
    )
    (tmp_path / "out").mkdir()
    if method not in TAKEN:
        with pytest.raises(UserError, match=r"takes none; those that do: task_arithmetic, dare_l"):
            average.average(sources, tmp_path / "out", settings=chosen)
        assert not list((tmp_path / "out").iterdir())
        return
    average.average(sources, tmp_path / "out", settings=chosen)
    for key, value in load_file(tmp_path / "out/model.safetensors").items():
        origin, delta = deltas(models, key)
        parts = np.array(signs).reshape(-1, *[1] * origin.ndim) * delta[: len(signs)]
        close(value, origin + 0.7 * TAKEN[method](parts))


@pytest.mark.parametrize("weights", [[float("nan"), 1.0], [float("-inf")]])
def test_weights_that_are_no_weights(models, weights, tmp_path):
    base, folders = models
    chosen = average.Settings(method="task_arithmetic", base=base)
    with pytest.raises(UserError, match="wanted finite numbers, one of them not 0"):
        average.average(dict(zip(folders, weights, strict=False)), tmp_path, settings=chosen)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(models, t, tmp_path):
    base, folders = models
    found = made((base, folders[:1]), tmp_path / "out", "slerp", t=t)
    for key, value in found.items():
        start, delta = deltas(models, key)
        end = start + delta[0]
        cosine = (start * end).sum() / np.linalg.norm(start) / np.linalg.norm(end)
        angle = np.arccos(cosine)
        if cosine > 0.9995:
            close(value, (1 - t) * start + t * end)
        else:
            close(
                value, (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
            )


def kept(delta, low, count):
    """The elements whose rank by size, from the smallest, is in low … low + count."""
    rank = np.abs(delta).reshape(len(delta), -1).argsort(1).argsort(1).reshape(delta.shape)
    return np.where((rank >= low) & (rank < low + count), delta, 0)


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_ties(models, density, tmp_path):
    found = made(models, tmp_path / "out", "ties", density=density)
    for key, value in found.items():
        base, delta = deltas(models, key)
        size = base.size
        count = max(1, int(density * size))
        part = weighted(kept(delta, size - count, count))
        sign = np.where(part.sum(0) >= 0, 1, -1)
        agrees = np.sign(part) == sign
        total = (weighted(np.ones_like(part)) * agrees).sum(0)
        close(value, base + (part * agrees).sum(0) / np.where(total == 0, 1, total))


@pytest.mark.parametrize(("density", "gamma"), [(0.3, 0.01), (0.3, 0.1), (0.95, 0.2), (1.0, 0.1)])
def test_breadcrumbs(models, density, gamma, tmp_path):
    found = made(models, tmp_path / "out", "breadcrumbs", density=density, gamma=gamma)
    base, delta = deltas(models, "b")  # all of it has moved: no ties
    size = base.size
    count, top = int(density * size), int(gamma * size)
    low = 0 if density == 1 else max(0, size - count - top)
    count = size if density == 1 else count
    close(found["b"], base + weighted(kept(delta, low, count)).sum(0))


def test_model_stock(models, tmp_path):
    found = made(models, tmp_path / "out", "model_stock")
    for key, value in found.items():
        base, delta = deltas(models, key)
        flat = delta.reshape(3, -1)
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        cosine = (unit @ unit.T)[np.triu_indices(3, 1)].mean()
        t = 3 * cosine / (1 + 2 * cosine)
        close(value, base + t * delta.mean(0))


def test_fisher(models, tmp_path):
    folders = models[1]
    rng, information = np.random.default_rng(1), {}
    for folder in folders:
        information[folder] = tmp_path / f"fisher-{folder.name}"
        information[folder].mkdir()
        found = {
            key: rng.gamma(1.0, size=v.shape)
            for key, v in load_file(folder / "model.safetensors").items()
        }
        found["w"][:3] = 0
        save_file(
            {k: v.astype(np.float32) for k, v in found.items()},
            information[folder] / "model.safetensors",
        )
    value = made(models, tmp_path / "out", "fisher", importance=information)["w"]
    parts = np.stack(
        [load_file(folder / "model.safetensors")["w"].astype(np.float64) for folder in folders]
    )
    fisher = np.stack(
        [
            load_file(information[folder] / "model.safetensors")["w"].astype(np.float64)
            for folder in folders
        ]
    )
    close(value[3:], (weighted(fisher * parts).sum(0) / weighted(fisher).clip(1e-30).sum(0))[3:])
    close(value[:3], (weighted(parts).sum(0) / sum(WEIGHTS))[:3])


@pytest.mark.parametrize("accumulate", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e-43, 1e-20, 1.0, 3e38])
def test_fisher_weighs_by_ratios_whatever_their_size(models, accumulate, size, tmp_path):
    """F of 1e-43 is no 0, and the sum of three of 3e38 no infinity."""
    folders = models[1]
    ratios, information = [1.0, 0.5, 0.25], {}
    for folder, ratio in zip(folders, ratios, strict=True):
        information[folder] = tmp_path / folder.name
        information[folder].mkdir()
        like = load_file(folder / "model.safetensors")
        found = {key: np.full(v.shape, ratio * size, np.float32) for key, v in like.items()}
        save_file(found, information[folder] / "model.safetensors")
    value = made(models, tmp_path / "out", "fisher", importance=information, accumulate=accumulate)[
        "w"
    ]
    stored = [load_file(information[f] / "model.safetensors")["w"][0, 0] for f in folders]
    share = np.array(WEIGHTS) * (np.array(stored, np.float64) / float(stored[0]))
    parts = [load_file(folder / "model.safetensors")["w"].astype(np.float64) for folder in folders]
    close(value, np.tensordot(share / share.sum(), np.stack(parts), 1))


def test_fisher_of_a_model_without_weight_does_not_drown_the_others(models, tmp_path):
    folders = models[1]
    information = {}
    for folder, size in zip(folders, [3e38, 1e-30, 1e-30], strict=True):
        information[folder] = tmp_path / folder.name
        information[folder].mkdir()
        like = load_file(folder / "model.safetensors")
        found = {key: np.full(v.shape, size, np.float32) for key, v in like.items()}
        found["w"][:2] *= 3 if folder == folders[2] else 1
        save_file(found, information[folder] / "model.safetensors")
    settings = average.Settings(method="fisher", importance=information)
    (tmp_path / "out").mkdir()
    weights = dict(zip(folders, [0.0, 1.0, 1.0], strict=True))
    average.average(weights, tmp_path / "out", settings=settings)
    value = load_file(tmp_path / "out" / "model.safetensors")["w"]
    parts = [load_file(folder / "model.safetensors")["w"] for folder in folders]
    close(value[:2], (parts[1] + 3 * parts[2])[:2] / 4)


@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_dare_linear_drops_by_chance_and_restores_what_is_expected(models, rescale, tmp_path):
    folders = models[1]
    found = made(models, tmp_path / "out", "dare_linear", density=0.4, rescale=rescale, seed=3)
    for key, value in found.items():
        origin, delta = deltas(models, key)
        size = origin.size
        keep = [
            sparse.random_mask(f"3/{f.name}/{key}", 0, size, 0.4).reshape(origin.shape)
            for f in folders
        ]
        part = np.where(np.stack(keep), delta, 0)
        axes = tuple(range(1, part.ndim))
        factor = {
            "density": np.full(3, 2.5),
            "none": np.ones(3),
            "l1": np.abs(delta).sum(axes) / np.abs(part).sum(axes),
        }
        close(value, origin + weighted(part * factor[rescale].reshape(-1, *[1] * len(axes))).sum(0))


def test_dare_ties_adds_what_has_the_elected_sign(models, tmp_path):
    folders = models[1]
    found = made(models, tmp_path / "out", "dare_ties", density=0.4)
    for key, value in found.items():
        origin, delta = deltas(models, key)
        keep = [
            sparse.random_mask(f"0/{f.name}/{key}", 0, origin.size, 0.4).reshape(origin.shape)
            for f in folders
        ]
        part = weighted(np.where(np.stack(keep), delta, 0)) / 0.4
        agrees = np.sign(part) == np.where(part.sum(0) >= 0, 1, -1)
        close(value, origin + (part * agrees).sum(0))


def test_a_random_mask_is_one_sequence_however_it_is_cut():
    whole = sparse.random_mask("x", 0, 10_000, 0.3)
    for cuts in ([0, 1, 5, 8, 9, 4096, 9_999, 10_000], [0, 4096, 8192, 10_000]):
        parts = [sparse.random_mask("x", a, b - a, 0.3) for a, b in itertools.pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (
        abs(sparse.random_mask("x", 0, 1_000_000, 0.3).mean() - 0.3) < 5 * (0.3 * 0.7 / 1e6) ** 0.5
    )
    other = sparse.random_mask("y", 0, 1_000_000, 0.3)
    both = (other & sparse.random_mask("x", 0, 1_000_000, 0.3)).mean()
    assert abs(both - 0.09) < 5 * (0.09 * 0.91 / 1e6) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 1000, 70_000])
def test_a_rank_is_found_exactly(size, tmp_path):
    rng = np.random.default_rng(size)
    values = np.where(
        rng.random(size) < 0.2, 0, rng.normal(size=size) * 10.0 ** rng.integers(-30, 10, size)
    )
    for name, array in (("base", np.zeros(size)), ("a", values)):
        (tmp_path / name).mkdir()
        save_file({"w": array.astype(np.float32)}, tmp_path / name / "model.safetensors")
    settings = average.Settings(method="ties", base=tmp_path / "base")
    group = average.models.Models({tmp_path / "a": 1.0}, settings).group("w")
    window, ranks = stream.Window("float32"), sorted({0, size // 3, size // 2, size - 1})
    found = sparse._ranked(group, group.tensors[0], ranks, window)
    window.close()
    np.testing.assert_array_equal(
        np.float32(found), np.sort(np.abs(values.astype(np.float32)))[ranks]
    )
