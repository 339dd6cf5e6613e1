"""Parameter averages against float64 closed forms, for every architecture that conf/ offers."""

import json
import struct

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from btm.cli.compose import conf_folder
from btm.config.training import ModelConfig
from btm.errors import UserError
from btm.models import average, causal_lm, configs, weights
from btm.system import sums

ARCHITECTURES = ["pico", "gpt2", "gpt_neox", "opt", "bloom"]


def small_config(name):
    """A config of conf/model, its sizes cut down, that still has every kind of parameter."""
    values = yaml.safe_load((conf_folder() / "model" / f"{name}.yaml").read_text())
    layers = next(key for key in ("num_hidden_layers", "n_layer") if key in values["config"])
    values["config"][layers] = 2
    return configs.make_config(ModelConfig(**values), vocab_size=300, eos=0)


def saved(name, folder, seed, dtype=torch.float32):
    causal_lm.new_model(small_config(name), seed).to(dtype).save_pretrained(folder)
    return folder


def mean_of(folders, shares, target, accumulate="float64"):
    target.mkdir()
    average.average(
        dict(zip(folders, shares, strict=True)),
        target,
        settings=average.Settings(accumulate=accumulate),
    )
    (target / "config.json").write_bytes((folders[0] / "config.json").read_bytes())
    return load_file(target / "model.safetensors")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("accumulate", "ulps"), [("float64", 1), ("float32", 4)])
def test_average_is_the_closed_form_within_few_ulps(name, accumulate, ulps, tmp_path):
    folders = [saved(name, tmp_path / str(seed), seed) for seed in range(3)]
    shares = [0.5, 0.3, 0.2]
    found = mean_of(folders, shares, tmp_path / "mean", accumulate)
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    assert found.keys() == parts[0].keys()
    for key, tensor in found.items():
        exact = sum(share * part[key].double() for share, part in zip(shares, parts, strict=True))
        # Of the largest that is added, for a sum can be far smaller than what it is made of.
        largest = (
            torch.stack([part[key].abs() for part in parts]).amax(0) if ulps > 1 else exact.abs()
        )
        ulp = torch.from_numpy(np.spacing(largest.float().numpy()))
        assert ((tensor.double() - exact).abs() <= ulps * ulp).all(), key
    AutoModelForCausalLM.from_pretrained(tmp_path / "mean")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_average_of_copies_is_the_copy(name, dtype, tmp_path):
    folder = saved(name, tmp_path / "one", 0, dtype)
    copies = []
    for i in range(3):
        (tmp_path / f"copy{i}").mkdir()
        (tmp_path / f"copy{i}" / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()
        )
        copies.append(tmp_path / f"copy{i}")
    (tmp_path / "mean").mkdir()
    shares = dict(zip(copies, [0.1, 0.7, 1 / 3], strict=True))
    average.average(shares, tmp_path / "mean", settings=average.Settings(accumulate="float64"))
    assert (tmp_path / "mean" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tied_weights_survive_and_logits_are_bit_equal(name, tmp_path):
    model = causal_lm.new_model(small_config(name), 0).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight)
    ids = torch.arange(2 * 20).view(2, 20)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
        assert torch.equal(model(ids).logits, causal_lm.load_model(tmp_path)(ids).logits)


def test_bfloat16_rounds_to_nearest_even():
    values = np.random.default_rng(0).normal(size=10_000)
    ours = weights.narrow(values, "BF16")
    theirs = (
        torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).view(torch.uint16).numpy()
    )
    np.testing.assert_array_equal(ours, theirs)
    back = weights.to_float64(ours, "BF16")
    np.testing.assert_array_equal(
        back, torch.from_numpy(theirs).view(torch.bfloat16).double().numpy()
    )


def test_bfloat16_is_rounded_once():
    tie, little = 1 + 2**-8, 2**-40  # float32 cannot tell them apart, and then the tie goes to even
    values = np.array([tie, tie + little, tie - little, -tie - little, tie + 2**-7 - little])
    exact = [1.0, 1.0078125, 1.0, -1.0078125, 1.0078125]
    np.testing.assert_array_equal(weights.to_float64(weights.narrow(values, "BF16"), "BF16"), exact)


def test_shards_are_read_and_written(tmp_path):
    model = causal_lm.new_model(small_config("pico"), 0)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="300KB")
    assert len(weights.files(tmp_path / "parts")) > 1
    (tmp_path / "mean").mkdir()
    sources = {tmp_path / "parts": 1.0, tmp_path / "whole": 3.0}
    digests = average.average(sources, tmp_path / "mean")
    assert digests == {
        file.name: sums.file_sha256(file) for file in weights.files(tmp_path / "mean")
    }
    for file in weights.files(tmp_path / "parts"):
        assert (tmp_path / "mean" / file.name).read_bytes() == file.read_bytes()
    assert weights.parameters(tmp_path / "mean") == weights.parameters(tmp_path / "whole")
    assert weights.sha256(tmp_path / "mean") == weights.sha256(tmp_path / "parts")


def test_integers_must_agree(tmp_path):
    for name, count in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        save_file(
            {"n": torch.tensor([count]), "w": torch.ones(2)}, tmp_path / name / "model.safetensors"
        )
    (tmp_path / "same").mkdir()
    average.average({tmp_path / "a": 1, tmp_path / "b": 1}, tmp_path / "same")
    assert load_file(tmp_path / "same" / "model.safetensors")["n"].item() == 1
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="integers that differ"):
        average.average({tmp_path / "a": 1, tmp_path / "c": 1}, tmp_path / "other")


def test_different_models_are_refused(tmp_path):
    one, other = saved("pico", tmp_path / "pico", 0), saved("opt", tmp_path / "opt", 0)
    with pytest.raises(UserError, match="only one of them has the tensor"):
        average.average({one: 1, other: 1}, tmp_path)
    (tmp_path / "wide").mkdir()
    save_file(
        {k: torch.zeros(*v.shape, 2) for k, v in load_file(one / "model.safetensors").items()},
        tmp_path / "wide" / "model.safetensors",
    )
    with pytest.raises(UserError, match="differ: tensor"):
        average.average({one: 1, tmp_path / "wide": 1}, tmp_path)


@pytest.mark.parametrize(
    "shares", [{"a": -1.0, "b": 2.0}, {"a": 0.0}, {"a": float("nan")}, {"a": float("inf")}]
)
def test_weights_that_cannot_be_normalised(shares):
    with pytest.raises(UserError, match="cannot be normalised"):
        average.normalise(shares)


def test_normalised_weights_drop_zeros():
    assert average.normalise({"a": 2, "b": 0, "c": 6}) == {"a": 0.25, "c": 0.75}


def test_not_finite_is_found(tmp_path):
    save_file(
        {"w": torch.ones(3), "v": torch.tensor([1.0, float("inf")])}, tmp_path / "model.safetensors"
    )
    assert weights.first_not_finite(tmp_path) == "v"


def header_with(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 5) + b"[1,2]",
        struct.pack("<Q", 4) + b"{{{{",
        header_with({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        header_with({"w": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header_with({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
        header_with({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
        header_with({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12"),
        header_with({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345"),
        header_with({"w": None}),
    ],
)
def test_broken_weight_files_are_refused(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: (not a valid|truncated)"):
        weights.tensors(tmp_path)


def test_pickled_weights_are_never_loaded(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="never loaded"):
        weights.files(tmp_path)
