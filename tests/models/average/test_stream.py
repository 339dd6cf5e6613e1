"""The same bytes whatever the threads, the size of a read or the order of models; dtypes, shards,
memory, errors.
"""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from folders import uncovered
from safetensors.torch import load_file, save_file

from btm.errors import UserError
from btm.models import average, weights
from btm.models.average import stream
from btm.system import sums

SHAPES = {
    "embed.weight": (1000, 33),
    "layers.0.mlp": (257, 129),
    "layers.0.norm": (7,),
    "layers.1.mlp": (129, 257),
}
METHODS = [m for m in average.METHODS if m != "fisher"]


def model(folder, seed, dtype=torch.float32, near=None, spread=0.1):
    """A model folder of random tensors; around those of the folder `near` if one is given."""
    torch.manual_seed(seed)
    folder.mkdir()
    origin = load_file(near / "model.safetensors") if near else {}
    tensors = {
        name: (
            origin.get(name, torch.zeros(1)).float()
            + (spread if near else 1.0) * torch.randn(shape)
        ).to(dtype)
        for name, shape in SHAPES.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = model(root / "base", 0)
    return base, [model(root / f"elm{j}", j + 1, near=base) for j in range(3)]


def settings_for(method, base, **more):
    return average.Settings(method=method, base=None if method == "linear" else base, **more)


def made(sources, target, settings=None):
    target.mkdir()
    average.average(sources, target, settings=settings or average.Settings())
    return (target / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_bytes_depend_on_neither_threads_nor_reads_nor_order(method, forest, tmp_path, monkeypatch):
    base, elms = forest
    elms = elms[:1] if method == "slerp" else elms
    shares = {elm: 0.2 + j for j, elm in enumerate(elms)}
    found = set()
    tries = itertools.product(
        [1, 3],
        [(1 << 19, 1 << 20), (1000, 3000), (4096, 4096)],
        [shares, dict(reversed(shares.items()))],
    )
    for i, (threads, (chunk, block), sources) in enumerate(tries):
        monkeypatch.setattr(stream, "CHUNK", chunk)
        monkeypatch.setattr(stream, "BLOCK", block)
        found.add(made(sources, tmp_path / str(i), settings_for(method, base, threads=threads)))
    assert len(found) == 1


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("accumulate", ["float32", "float64"])
def test_every_dtype_is_rounded_once(stored, accumulate, tmp_path):
    folders = [model(tmp_path / str(j), j, stored) for j in range(3)]
    made(dict.fromkeys(folders, 1.0), tmp_path / "mean", average.Settings(accumulate=accumulate))
    found = load_file(tmp_path / "mean" / "model.safetensors")
    for name, tensor in found.items():
        exact = sum(load_file(f / "model.safetensors")[name].double() for f in folders) / 3
        assert tensor.dtype == stored
        if stored == torch.float32:
            assert (tensor.double() - exact).abs().max() <= 1e-6
        elif stored == torch.float64:
            assert (tensor - exact).abs().max() <= 1e-15
        else:
            # Exact ties are common, and Σ x/3 lies to either side of one: so distances, not torch's
            # own rounding.
            slack = {"float32": 1e-6, "float64": 1e-15}[accumulate]
            assert ((tensor.double() - exact).abs() <= half_ulp(exact, stored) + slack).all()


def half_ulp(exact, stored):
    """Half the distance between the numbers of a dtype around `exact`: the most that one rounding
    is off.
    """
    bits, least = {torch.bfloat16: (8, -133.0), torch.float16: (11, -24.0)}[stored]
    return 2 ** (torch.clamp(torch.frexp(exact).exponent.double() - bits, min=least) - 1)


@pytest.mark.parametrize(
    ("name", "dtype"), [("F32", torch.float32), ("BF16", torch.bfloat16), ("F16", torch.float16)]
)
def test_the_result_can_have_another_dtype_and_other_shards(name, dtype, forest, tmp_path):
    _, elms = forest
    made(dict.fromkeys(elms, 1.0), tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    settings = average.Settings(dtype=name, shard_bytes=150_000)
    digests = average.average(dict.fromkeys(elms, 1.0), tmp_path / "parts", settings=settings)
    assert len(digests) > 1
    assert digests == {
        file.name: sums.file_sha256(file) for file in weights.files(tmp_path / "parts")
    }
    assert all(f.stat().st_size < 150_000 + 4 * 33_000 for f in weights.files(tmp_path / "parts"))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    parts = {k: v for file in weights.files(tmp_path / "parts") for k, v in load_file(file).items()}
    assert parts.keys() == whole.keys()
    for key, tensor in parts.items():
        torch.testing.assert_close(tensor, whole[key].to(dtype), rtol=0, atol=0)


def test_layers_have_weights_of_their_own(forest, tmp_path):
    _, elms = forest
    layers = {"layers.*": {"elm0": 1.0, "elm1": 3.0}, "layers.1.*": {"elm2": 1.0}}
    made(
        dict.fromkeys(elms, 1.0),
        tmp_path / "mean",
        average.Settings(layers=layers, accumulate="float64"),
    )
    found = load_file(tmp_path / "mean" / "model.safetensors")
    a, b, c = (load_file(elm / "model.safetensors") for elm in elms)
    torch.testing.assert_close(found["layers.1.mlp"], c["layers.1.mlp"], rtol=0, atol=0)
    torch.testing.assert_close(
        found["layers.0.mlp"], 0.25 * a["layers.0.mlp"] + 0.75 * b["layers.0.mlp"]
    )
    torch.testing.assert_close(
        found["embed.weight"], (a["embed.weight"] + b["embed.weight"] + c["embed.weight"]) / 3
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"layer.*": {"elm0": 1.0}}, "no tensor is called"),
        ({"layers.*": {"elm9": 1.0}}, "'elm9' is none of elm0, elm1, elm2"),
        ({"layers.*": {"elm0": 0.0}}, "gives no model a weight"),
    ],
)
def test_layers_that_make_no_sense(layers, message, forest, tmp_path):
    _, elms = forest
    with pytest.raises(UserError, match=message):
        made(dict.fromkeys(elms, 1.0), tmp_path / "mean", average.Settings(layers=layers))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (average.Settings(method="ties"), "needs average.base"),
        (average.Settings(method="fisher"), "needs the Fisher information"),
        (average.Settings(method="tise"), "did you mean 'ties'"),
    ],
)
def test_methods_say_what_they_need(settings, message, forest, tmp_path):
    with pytest.raises(UserError, match=message):
        made(dict.fromkeys(forest[1], 1.0), tmp_path / "mean", settings)


@pytest.mark.parametrize(("method", "count"), [("slerp", 2), ("model_stock", 1)])
def test_methods_say_how_many_models_they_take(method, count, forest, tmp_path):
    base, elms = forest
    with pytest.raises(UserError, match=f"takes .* models beside its base; {count} were given"):
        made(dict.fromkeys(elms[:count], 1.0), tmp_path / "mean", settings_for(method, base))


def test_a_model_cut_short_meanwhile_is_an_error_of_one_line(tmp_path, monkeypatch):
    copies = [model(tmp_path / str(j), j) for j in range(2)]
    monkeypatch.setattr("btm.models.average.layout.plan", cut_after(copies[1], average.layout.plan))
    with pytest.raises(UserError, match="cut short while it was read"):
        made(dict.fromkeys(copies, 1.0), tmp_path / "mean")


def cut_after(folder, plan):
    """The plan of an average, after which a file of `folder` loses its end."""

    def planned(*arguments):
        files = plan(*arguments)
        with (folder / "model.safetensors").open("r+b") as handle:
            handle.truncate(100_000)
        return files

    return planned


def test_the_caller_hears_that_it_is_alive_and_can_stop_it(forest, tmp_path):
    _, elms = forest

    def gone():
        raise UserError("the lease is lost")

    (tmp_path / "mean").mkdir()
    with pytest.raises(UserError, match="the lease is lost"):
        average.average(dict.fromkeys(elms, 1.0), tmp_path / "mean", gone)


@pytest.mark.slow
def test_memory_grows_with_neither_models_nor_their_size(tmp_path):
    script = """
import sys
from pathlib import Path
import numpy as np
from btm.models.average import Settings, average
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1024
folders = sorted(p for p in Path(sys.argv[1]).iterdir() if p.name.startswith("elm"))
before = peak()
for i, method in enumerate(sys.argv[2].split()):
    target = Path(sys.argv[1]) / f"out{i}"
    target.mkdir()
    average(dict.fromkeys(folders, 1.0), target, settings=Settings(method=method, base=folders[0], threads=3))
print(peak() - before)
"""
    head = None
    for j in range(40):
        (tmp_path / f"elm{j:02}").mkdir()
        file = tmp_path / f"elm{j:02}" / "model.safetensors"
        if head is None:
            save_file({"w": torch.randn(5_000_000)}, file)
            head = file.read_bytes()
        else:
            file.write_bytes(head)
    # 40 models of 20 MB: 800 MB
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "linear ties"],
        env=uncovered(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) <= 64


def test_integers_are_copied_whole(tmp_path):
    values = torch.arange(5_000, dtype=torch.int64)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file(
            {"n": values, "flag": torch.tensor([True, False]), "w": torch.ones(3)},
            tmp_path / name / "model.safetensors",
        )
    made({tmp_path / "a": 1.0, tmp_path / "b": 1.0}, tmp_path / "mean")
    assert np.array_equal(load_file(tmp_path / "mean" / "model.safetensors")["n"], values)
